"""The artifact store: a folder and S3 (moto's, on loopback) keep the same promises."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from moto.server import ThreadedMotoServer

from durable_agent.artifacts import Artifacts, StoreUnavailable
from durable_agent.core.events import dumps
from durable_agent.core.large import KEY, is_reference
from durable_agent.errors import InvalidRequest, NotFound, RetryableError


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket."""
    import urllib.request

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/artifacts", method="PUT"))
    yield "s3://artifacts"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    """A store of each kind."""
    return Artifacts(str(tmp_path / "kept") if request.param == "folder" else request.getfixturevalue("s3"))


async def test_what_was_put_comes_back_by_its_digest_however_often_it_was_put(store: Artifacts) -> None:
    content = b"x" * 300_000
    digests = {await store.put(content) for _ in range(3)}
    assert digests == {hashlib.sha256(content).hexdigest()}
    assert await store.get(digests.pop()) == content


async def test_a_large_value_is_replaced_and_whole_again(store: Artifacts) -> None:
    kept = await store.keep(b'["' + b"y" * 1000 + b'"]', inline_bytes=100)
    reference = orjson.loads(kept)
    assert is_reference(reference)
    assert await store.whole(reference) == ["y" * 1000]
    assert await store.keep(b"[1]", inline_bytes=100) == b"[1]"


async def test_a_small_value_that_looks_like_a_replaced_one_is_itself_again(store: Artifacts) -> None:
    disguised = {"$artifact": "0" * 64, "bytes": 1}
    kept = orjson.loads(await store.keep(dumps(disguised), inline_bytes=1000))
    assert is_reference(kept)
    assert await store.whole(kept) == disguised


@pytest.mark.parametrize("value", [{"$artifact": "a" * 64, "bytes": 1}, {"bytes": 10**18, "$artifact": "a" * 64}])
async def test_what_only_looks_like_a_reference_is_whole_again(store: Artifacts, value: Any) -> None:
    theirs = await store.put(b'"somebody else\'s"')
    value = {**value, "$artifact": theirs}
    for _ in range(2):  # one that stands for another, too
        kept = orjson.loads(await store.keep(orjson.dumps(value), inline_bytes=100_000))
        assert kept[KEY] != theirs
        assert await store.whole(kept) == value
        value = kept


@pytest.mark.parametrize(
    "value",
    [{"$artifact": "abc", "bytes": 1}, {"$artifact": "a" * 64, "bytes": "1"}, {"$artifact": "A" * 64, "bytes": 1},
     {"$artifact": "a" * 64, "bytes": True}, {"$artifact": 1, "bytes": 1}, {"$artifact": "a" * 64}],
)  # fmt: skip
async def test_what_no_store_makes_is_no_reference(store: Artifacts, value: Any) -> None:
    assert await store.keep(orjson.dumps(value), inline_bytes=100) == orjson.dumps(value)
    assert await store.whole(value) == value


async def test_what_is_not_there_is_named(store: Artifacts) -> None:
    with pytest.raises(NotFound, match="0" * 64):
        await store.get("0" * 64)
    # A worker that looks elsewhere than its fellows is mended by its operator, and the step then goes on.
    with pytest.raises(RetryableError, match=f"{'0' * 64}.*DURABLE_AGENT_ARTIFACTS"):
        await store.whole({"$artifact": "0" * 64, "bytes": 1})


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "x" * 65])
async def test_a_digest_that_is_none_leads_nowhere(store: Artifacts, digest: str) -> None:
    with pytest.raises(NotFound):
        await store.get(digest)


async def test_content_that_was_altered_is_not_returned(tmp_path: Path) -> None:
    store = Artifacts(str(tmp_path))
    digest = await store.put(b"true")
    (tmp_path / digest[:2] / digest).write_bytes(b"false")
    with pytest.raises(StoreUnavailable, match="altered"):
        await store.get(digest)


async def test_a_store_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for name, value in {"AWS_ENDPOINT_URL": place, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "a",
                            "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "x"}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreUnavailable, match="refuses"):
            await Artifacts("s3://artifacts").put(b"x")


@pytest.mark.parametrize("place", ["/proc/durable-agent/artifacts", "s3://", "ftp://host/folder"])
def test_a_place_that_cannot_be_is_refused_by_its_setting(place: str) -> None:
    with pytest.raises(InvalidRequest, match="DURABLE_AGENT_ARTIFACTS"):
        Artifacts(place)
