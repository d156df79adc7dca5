"""The console is what a browser gets; everybody else gets what there was before."""

from __future__ import annotations

import asyncio
import gzip
import http.client
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx2
import pytest

from durable_agent.api import console
from durable_agent.api.console import accepts_html
from durable_agent.settings import Settings
from tests.support.server import Api, serving

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
RUN = "01a00000-0000-7000-8000-000000000000"
ADDRESSES = [
    "/", "/runs", f"/runs/{RUN}", f"/runs/{RUN}/diff/{RUN}", "/new", "/waits", "/dead-letters", "/agents", f"/agents/{RUN}",
    "/tool-servers", f"/tool-servers/{RUN}", "/models", "/graphs", "/graphs/research-swarm", "/workers", "/settings",
    "/runs?status=failed&q=x",
]  # fmt: skip
SCRIPT = b"console.log('" + b"durable " * 500 + b"')"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where a console is built."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text(
        '<!doctype html>\n<html>\n  <head>\n    <link href="./icon.svg" />\n  </head>\n</html>'
    )
    (tmp_path / "icon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "assets/index-Ab_1.js").write_bytes(SCRIPT)
    (tmp_path / "assets/index-Cd-2.css").write_text("body{}")
    (tmp_path / "assets/.secret.js").write_text("hidden")
    (tmp_path / "assets/notes.txt").write_text("not the console's")
    (tmp_path / "secret.js").write_text("above the assets")
    return placed(tmp_path, monkeypatch)


def placed(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the console's files looked for in a folder of the test's."""
    monkeypatch.setattr(console, "PLACE", path)
    return path


@pytest.fixture
async def api(settings: Settings, place: Path) -> AsyncIterator[Api]:
    async with serving(settings) as made:
        yield made


@asynccontextmanager
async def below(settings: Settings, root_path: str) -> AsyncIterator[Api]:
    async with serving(Settings(**{**settings.model_dump(), "root_path": root_path}, _env_file=None)) as made:
        yield made


async def test_a_browser_gets_the_page_at_each_of_its_addresses(api: Api) -> None:
    for path in ADDRESSES:
        answer = await api.http.get(path, headers=BROWSER)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert '<head>\n    <base href="/" />' in answer.text
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["vary"] == "Accept"


async def test_the_page_may_load_nothing_from_elsewhere_and_be_framed_by_nobody(api: Api) -> None:
    for path in ("/", "/assets/index-Ab_1.js", "/icon.svg"):
        headers = (await api.http.get(path, headers=BROWSER)).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy == {
            "default-src": "'self'", "img-src": "'self' data:", "object-src": "'none'", "base-uri": "'self'",
            "frame-ancestors": "'none'", "form-action": "'self'",
        }  # fmt: skip
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


async def test_what_is_no_browser_is_answered_as_ever(api: Api) -> None:
    for accept in ("application/json", "*/*", "", "text/plain, application/xhtml+xml", "text/htmlx"):
        answer = await api.http.get("/", headers={"Accept": accept})
        assert answer.json()["name"] == "durable-agent"
        answer = await api.http.get("/runs", headers={"Accept": accept})
        assert answer.json() == {"items": [], "next_cursor": None}
        # A browser's back button takes what it has of an address, unless it is told that there are two.
        assert answer.headers["vary"] == "Accept"


async def test_what_is_no_screen_is_raw_for_a_browser_too(api: Api) -> None:
    for path in ("/healthz", "/metrics", "/openapi.json", f"/artifacts/{RUN}", f"/runs/{RUN}/export", "/keys"):
        answer = await api.http.get(path, headers=BROWSER)
        assert "text/html" not in answer.headers["content-type"], path
        assert "vary" not in answer.headers


async def test_only_reading_is_a_browsers_navigation(api: Api) -> None:
    answer = await api.http.post("/runs", json={}, headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


async def test_head_is_the_page_without_its_body(api: Api) -> None:
    whole = await api.http.get("/runs", headers=BROWSER)
    head = await api.http.head("/runs", headers=BROWSER)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"] != "0"
    assert (await api.http.head("/assets/index-Ab_1.js")).headers["content-type"] == "text/javascript; charset=utf-8"


async def test_an_asset_is_kept_for_ever_and_comes_packed_to_who_takes_it_so(api: Api) -> None:
    packed = await api.http.get("/assets/index-Ab_1.js", headers={"Accept-Encoding": "gzip"})
    plain = await api.http.get("/assets/index-Ab_1.js", headers={"Accept-Encoding": "identity"})
    for answer in (packed, plain):
        assert answer.content == SCRIPT
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["vary"] == "Accept-Encoding"
    assert int(packed.headers["content-length"]) == len(gzip.compress(SCRIPT)) < len(SCRIPT)
    assert "content-encoding" not in plain.headers
    style = await api.http.get("/assets/index-Cd-2.css")
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    icon = await api.http.get("/icon.svg")
    assert (icon.headers["content-type"], "immutable" in icon.headers["cache-control"]) == ("image/svg+xml", False)


OUTSIDE = (
    "/assets/", "/assets/gone.js", "/assets/.secret.js", "/assets/notes.txt", "/assets/../secret.js", "/assets/..%2fsecret.js",
    "/assets/%2e%2e/secret.js", "/assets/..%5csecret.js", "/assets//etc/passwd", "/assets/index-Ab_1.js%00", "/assets/../index.html",
    "/secret.js", "/index.html", "/assets/index-Ab_1.js/", "/assets/%2fetc%2fpasswd",
)  # fmt: skip


async def test_nothing_but_the_consoles_files_is_served(api: Api) -> None:
    def ask(path: str) -> tuple[int, str]:
        # By hand: a client would tidy the path up.
        with closing(http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.getheader("content-type", "")

    for path in OUTSIDE:
        assert await asyncio.to_thread(ask, path) == (404, "application/problem+json"), path


async def test_a_foreign_host_gets_no_page(api: Api) -> None:
    for path in ("/", "/assets/index-Ab_1.js"):
        answer = await api.http.get(path, headers={**BROWSER, "Host": "rebound.example"})
        assert answer.status_code == 403


async def test_the_page_needs_no_key_and_its_data_does(settings: Settings, place: Path) -> None:
    async with serving(settings) as api:
        await api.http.post("/keys", json={"name": "k", "scopes": ["admin"]})
    async with serving(settings) as api:
        assert (await api.http.get("/runs", headers=BROWSER)).status_code == 200
        assert (await api.http.get("/assets/index-Ab_1.js")).status_code == 200
        assert (await api.http.get("/runs")).status_code == 401


@pytest.mark.parametrize("taken_off", [True, False])
async def test_below_a_path_links_begin_with_it_whether_or_not_the_proxy_takes_it_off(
    settings: Settings, place: Path, taken_off: bool
) -> None:
    prefix = "" if taken_off else "/tools/agents"
    async with below(settings, "/tools/agents") as api:
        for path in ("/", f"/runs/{RUN}"):
            answer = await api.http.get(prefix + path, headers=BROWSER)
            assert '<base href="/tools/agents/" />' in answer.text
        assert (await api.http.get(f"{prefix}/assets/index-Ab_1.js")).content == SCRIPT
        made = await api.http.post(f"{prefix}/runs", json={"steps": [{"name": "a", "tool": "noop"}]})
        run = made.json()["id"]
        assert made.headers["location"] == f"/tools/agents/runs/{run}"
        assert made.json()["ws_url"] == f"ws://127.0.0.1:{api.port}/tools/agents/ws/{run}"
        assert (await api.http.get(f"{prefix}/runs/{run}")).json()["id"] == run
        async with api.socket(f"{prefix}/ws/{run}") as ws:
            assert "run.created" in str(await ws.recv())
        assert (await api.http.get(f"{prefix}/openapi.json")).json()["servers"] == [{"url": "/tools/agents"}]


async def test_a_path_that_begins_alike_is_not_below_it(settings: Settings, place: Path) -> None:
    async with below(settings, "/tools") as api:
        assert (await api.http.get("/toolsets", headers=BROWSER)).status_code == 404
        large = {"runs": [{"goal": "g" * 9000, "steps": [{"name": "a", "tool": "noop"}]}] * 150}
        # The batch's own limit holds below a path as well.
        assert (await api.http.post("/tools/runs/batch", json=large)).status_code == 201


@pytest.mark.parametrize("root_path", ["tools", "/tools/", '/"><script>', "/a b", "//evil.example"])
def test_a_path_that_is_none_is_refused_at_start(root_path: str) -> None:
    with pytest.raises(ValueError, match="root_path"):
        Settings(_env_file=None, root_path=root_path)


async def test_a_console_that_is_not_built_says_how_to_build_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed(tmp_path / "none", monkeypatch)
    async with serving(settings) as api:
        answer = await api.http.get("/", headers=BROWSER)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "<code>make console</code>" in answer.text
        # Elsewhere the API's own answer says more than the same words again.
        assert (await api.http.get("/runs", headers=BROWSER)).json()["items"] == []
        assert (await api.http.get("/assets/index-Ab_1.js")).status_code == 404


async def test_a_console_that_is_built_meanwhile_is_there_without_a_restart(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed(tmp_path, monkeypatch)
    async with serving(settings) as api:
        (tmp_path / "index.html").write_text("<html><head></head></html>")
        assert "<base" in (await api.http.get("/runs", headers=BROWSER)).text


def test_html_is_asked_for_by_name() -> None:
    assert accepts_html(BROWSER["Accept"])
    assert accepts_html("application/json, TEXT/HTML ;q=0.5")
    assert not accepts_html("*/*")
    assert not accepts_html("application/xhtml+xml")


async def test_many_ask_for_one_file_at_once_and_all_get_it(api: Api) -> None:
    async def get() -> httpx2.Response:
        return await api.http.get("/assets/index-Ab_1.js")

    assert {one.content for one in await asyncio.gather(*(get() for _ in range(20)))} == {SCRIPT}
