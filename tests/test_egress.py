"""The way out: nobody is led to this machine, its network or a cloud's metadata, by whatever URL, name or redirect.

The witnesses are listeners on loopback and an audit hook on every socket of the process, never the guard's own word.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import httpx2
import pytest

from durable_agent.addresses import is_public
from durable_agent.egress import Blocked, Egress
from durable_agent.errors import FatalError, InvalidRequest, RetryableError
from durable_agent.tls import trusted
from tests.support.sites import Listeners, Names, Site, certificate, listeners, site, sockets

pytestmark = pytest.mark.usefixtures("inside")

PUBLIC = "93.184.216.34"

CLOSED = """
127.0.0.1 127.0.0.2 127.1.2.3 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255
192.168.0.1 192.168.255.255 169.254.169.254 169.254.170.2 169.254.0.23 100.64.0.1 100.127.255.255 100.100.100.200
192.0.0.1 192.0.0.170 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16
::1 :: ::2 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1 ::ffff:0:127.0.0.1
64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::10.0.0.1 64:ff9b:1::1 64:ff9b:1::8.8.8.8 2002:7f00:1:: 2002:a9fe:a9fe::1
2002:808:808::1 2001::1 2001:0:7f00:1:: 2001:db8::1 2001:10::1 2001:20::1 2001:2::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254
fd20:ce::254 fe80::1 febf::1 fec0::1 ff02::1 ff0e::1 100::1 4000::1 e000::1
""".split()  # noqa: SIM905

SPELLINGS = """
2130706433 0x7f000001 0X7F000001 017700000001 0177.0.0.1 0177.0.0.01 0x7f.0.0.1 0x7f.0x0.0x0.0x1 0x7f.1 127.1 127.0.1
127.00.00.01 127.0.0.1. 127.0.0.1.. .127.0.0.1 127.0.0.256 1.2.3.4.5 3232235777 2852039166 0xa9fea9fe 0251.0376.0251.0376
169.254.43518 4294967297 0 0. 00 0x 127.0.0.0x1 %31%32%37.0.0.1 127%2e0%2e0%2e1 127.0.0.1%00.example.com %5b::1%5d
127.0.0.1%23.example.com 127.0.0.1%2f 127。0。0。1 127．0．0．1 127｡0｡0｡1 １２７.０.０.１ ①②⑦.⓪.⓪.① [127.0.0.1] [::1 ::1
[fe80::1%25lo] [fe80::1%lo] [::1%25lo] [::1%lo] [2606:4700::1%25lo] [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001]
[::FFFF:127.0.0.1] [::ffff:0x7f.1] [v1.127.0.0.1]
localhost LOCALHOST localhost. sub.localhost localhost.localdomain ip6-localhost ⓛocalhost ｌｏｃａｌｈｏｓｔ localhost%00 loc%61lhost
metadata metadata.google.internal instance-data printer.local db.corp host.docker.internal kubernetes.default.svc
kubernetes.default.svc.cluster.local router.lan nas.home.arpa intranet app.intranet a_b..example -.example a%20b.example
""".split()  # noqa: SIM905

PORTS = (
    "0 1 7 19 22 23 25 53 110 111 143 389 445 465 587 636 873 993 1433 2049 2375 2379 3306 3389 5432 5900 6379 6443 "
)
PORTS += "9200 10250 11211 27017 65536 99999 -1 1e3 22?"

WHOLE = [
    "ftp://127.0.0.1/", "file:///etc/passwd", "file://localhost/etc/passwd", "gopher://127.0.0.1:{port}/_x",
    "dict://127.0.0.1:{port}/", "ldap://127.0.0.1:{port}/", "ws://127.0.0.1:{port}/", "wss://127.0.0.1:{port}/",
    "data:text/html,x", "javascript:alert(1)", "jar:http://127.0.0.1!/x", "unix:/var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "tftp://127.0.0.1/", "sftp://127.0.0.1/", "blob:http://127.0.0.1/x",
    "view-source:http://127.0.0.1/", "https://", "http://:{port}/", "mailto:a@b.c",
    "http://user:pass@127.0.0.1:{port}/", "http://user:pass@" + PUBLIC + "/", "http://" + PUBLIC + "@127.0.0.1:{port}/",
    "http://" + PUBLIC + ":80@127.0.0.1:{port}/", "http://a@b@127.0.0.1:{port}/", "http://:@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@" + PUBLIC + "/", "http://127.0.0.1:{port}?@" + PUBLIC + "/", "http://x\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@" + PUBLIC + "/", "http://x%40127.0.0.1:{port}/", "http://127.0.0.1:{port}:80/",
    "HTTP://127.0.0.1:{port}/", "https://127.0.0.1:{port}/", "https://[::1]:{port}/", "https://localhost:{port}/",
]  # fmt: skip

# What a browser's base turns into a path of the same site; it is no URL by itself.
RELATIVE = ["//127.0.0.1:{port}/", "///127.0.0.1:{port}/", "http:/127.0.0.1:{port}/", "http:///127.0.0.1:{port}/",
            "http:127.0.0.1:{port}", "/\\127.0.0.1:{port}/", "\\\\127.0.0.1:{port}\\", "", "127.0.0.1:80/x",
            "http://", "http:", "http://?x", "http://#x"]  # fmt: skip


def _host(text: str) -> str:
    return f"[{text}]" if ":" in text and "[" not in text else text


TARGETS = [
    *(f"http://{_host(one)}:{{port}}/x" for one in CLOSED), *(f"http://{_host(one)}/x" for one in CLOSED[:4]),
    *(f"http://{one}:{{port}}/x" for one in SPELLINGS), *(f"http://{one}/x" for one in SPELLINGS[:12]),
    *(f"http://n{number}.named.example:{{port}}/x" for number in range(len(CLOSED))),
    *(f"http://mixed{number}.named.example:{{port}}/x" for number in range(6)),
    *(f"http://{PUBLIC}:{one}/" for one in PORTS.split()), *(f"http://public.named.example:{one}/" for one in (22, 5432)),
    *WHOLE,
]  # fmt: skip
MIXED = [
    [PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "::1"], ["2606:4700::1111", "127.0.0.2"],
    [PUBLIC, PUBLIC, "169.254.169.254"], [PUBLIC, "fe80::1%lo"],
]  # fmt: skip


def names() -> Names:
    made = {f"n{number}.named.example": [[one]] for number, one in enumerate(CLOSED)}
    made |= {f"mixed{number}.named.example": [answer] for number, answer in enumerate(MIXED)}
    return Names({**made, "public.named.example": [[PUBLIC]]})


@pytest.fixture
async def alone() -> AsyncIterator[Listeners]:
    """Listeners to whom nobody may come."""
    async with listeners() as made:
        yield made


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(set(TARGETS)) >= 150


async def test_no_target_is_reached(alone: Listeners) -> None:
    egress, reached = Egress(resolve=names()), []
    with sockets() as seen:
        for target in [*TARGETS, *RELATIVE]:
            try:
                reached.append((target, await egress.fetch(target.replace("{port}", str(alone.port)), max_bytes=100)))
            except Blocked:
                continue
            except Exception as error:
                reached.append((target, error))
    assert reached == []
    assert (alone.accepted, seen) == (0, [])


async def test_no_redirect_reaches_a_target(alone: Listeners, home: Site) -> None:
    egress, reached = Egress(allow=[home.authority], resolve=names()), []
    with sockets() as seen:
        for number, target in enumerate(TARGETS):
            url = home.leads(f"/{number}", target.replace("{port}", str(alone.port)))
            try:
                reached.append((target, await egress.fetch(url, max_bytes=100)))
            except Blocked:
                continue
            except Exception as error:
                reached.append((target, error))
    assert [asked.target for asked in home.asked] == [f"/{number}" for number in range(len(TARGETS))]
    assert reached == []
    assert alone.accepted == 0
    assert {what for _, what in seen} == {(home.host, home.port)}


async def test_a_relative_redirect_stays_or_is_blocked(alone: Listeners, home: Site) -> None:
    egress = Egress(allow=[home.authority], resolve=names())
    with sockets() as seen:
        for number, target in enumerate(RELATIVE):
            url = home.leads(f"/{number}", target.replace("{port}", str(alone.port)))
            try:
                page = await egress.fetch(url, max_bytes=100, redirects=1)
            except (Blocked, FatalError):
                continue
            assert page.url.startswith(home.url())
    assert alone.accepted == 0
    assert {what for _, what in seen} == {(home.host, home.port)}


@pytest.mark.parametrize("follow", [False, True])
async def test_a_client_of_ones_own_reaches_no_target_either(alone: Listeners, home: Site, follow: bool) -> None:
    async with Egress(allow=[home.authority], resolve=names()).client() as client:
        for number, target in enumerate(TARGETS):
            url = home.leads(f"/{number}", target.replace("{port}", str(alone.port)))
            if not follow:
                assert (await client.post(url, json={})).status_code == 302
            else:
                with pytest.raises((Blocked, httpx2.RemoteProtocolError, httpx2.UnsupportedProtocol)):
                    await client.post(url, json={}, follow_redirects=True)
    assert alone.accepted == 0
    assert len(home.asked) == len(TARGETS)


async def test_no_proxy_of_the_environment_is_used(
    alone: Listeners, home: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.2:{alone.port}")
    home.says("/", "hello")
    assert (await Egress(allow=[home.authority]).fetch(home.url(), max_bytes=100)).content == b"hello"
    assert alone.accepted == 0


@pytest.mark.parametrize("address", [*CLOSED, "2606:4700::1%lo", "64:ff9b::8.8.8.8%lo"])
def test_no_closed_address_is_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", PUBLIC, "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "198.17.0.1",
     "198.20.0.1", "223.255.255.255", "169.253.0.1", "126.0.0.1", "128.0.0.1", "2606:4700::1111", "2a00:1450::1",
     "2001:200::1", "2001:4860:4860::8888", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"],
)  # fmt: skip
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


async def test_a_message_shows_no_secret_of_a_url() -> None:
    for url in ("http://user:hidden@127.0.0.1/a?key=hidden#hidden", "http://user:hidden@[bad/a?key=hidden"):
        with pytest.raises(Blocked) as caught:
            await Egress().fetch(url, max_bytes=1)
        assert "hidden" not in str(caught.value) + caught.value.url + caught.value.why


# Rebinding


async def test_a_resolver_that_changes_its_mind_gains_nothing_in_10_000_checks() -> None:
    answers = itertools.cycle(
        [[PUBLIC], ["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["2606:4700::1111"], ["::ffff:127.0.0.1"]]
    )
    asked = 0

    async def resolve(host: str, port: int) -> list[str]:
        nonlocal asked
        asked += 1
        return next(answers)

    egress, given, blocked = Egress(resolve=resolve), [], 0
    for _ in range(10_000):
        try:
            given += await egress.addresses("rebinding.example", 80)
        except Blocked:
            blocked += 1
    assert (asked, blocked, len(given)) == (10_000, 6_000, 4_000)
    assert {str(one) for one in given} == {PUBLIC, "2606:4700::1111"}


async def test_the_socket_goes_to_the_address_that_was_judged() -> None:
    async with site("127.0.0.2") as good, site("127.0.0.3", good.port) as bad:
        resolver = Names({"rebinding.example": [["127.0.0.2"], ["127.0.0.3"]]})
        good.says("/", "good")
        egress = Egress(allow=["127.0.0.2"], resolve=resolver)
        url = f"http://rebinding.example:{good.port}/"
        with sockets() as seen:
            page = await egress.fetch(url, max_bytes=100)
            with pytest.raises(Blocked, match=r"127\.0\.0\.3"):
                await egress.fetch(url, max_bytes=100)
        assert (page.content, resolver.asked) == (b"good", ["rebinding.example"] * 2)
        assert seen == [("connect", ("127.0.0.2", good.port))]
        assert good.asked[0].headers["host"] == f"rebinding.example:{good.port}"
        assert bad.accepted == 0


async def test_a_name_that_alternates_is_never_followed_to_the_wrong_side() -> None:
    async with site("127.0.0.2") as good, site("127.0.0.3", good.port) as bad:
        resolver = Names({"flip.example": [["127.0.0.2"], ["127.0.0.3"]] * 100})
        egress = Egress(allow=["127.0.0.2"], resolve=resolver)
        good.leads("/", "/again")
        good.says("/again", "good", headers=["Connection: close"])
        blocked = 0
        for _ in range(50):
            with pytest.raises(Blocked):
                await egress.fetch(f"http://flip.example:{good.port}/", max_bytes=100)
            blocked += 1
        assert (blocked, bad.accepted) == (50, 0)
        assert [one.target for one in good.asked] == ["/"] * 50


async def test_a_name_without_an_address_can_be_tried_again() -> None:
    egress = Egress(resolve=Names({"empty.example": [[]], "odd.example": [["nonsense"]]}))
    for name in ("unknown.example", "empty.example", "odd.example"):
        with sockets() as seen, pytest.raises(RetryableError, match="name"):
            await egress.fetch(f"http://{name}/", max_bytes=1)
        assert seen == []


async def test_the_next_address_is_tried_when_the_first_does_not_answer(home: Site) -> None:
    home.says("/", "here")
    egress = Egress(allow=["127.0.0.0/8"], resolve=Names({"two.example": [["127.0.0.9", "127.0.0.1"]]}))
    assert (await egress.fetch(f"http://two.example:{home.port}/", max_bytes=9)).content == b"here"


async def test_tls_is_for_the_name_and_not_for_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, context = certificate(tmp_path, "shop.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    trusted.cache_clear()
    resolver = Names({"shop.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]})
    async with site(tls=context) as shop:
        shop.says("/", "secure")
        egress = Egress(allow=["127.0.0.1"], resolve=resolver)
        assert (await egress.fetch(f"https://shop.example:{shop.port}/", max_bytes=99)).content == b"secure"
        with pytest.raises(RetryableError, match="ConnectError"):
            await egress.fetch(f"https://other.example:{shop.port}/", max_bytes=99)
        assert shop.tls_names == ["shop.example", "other.example"]
        assert [one.headers["host"] for one in shop.asked] == [f"shop.example:{shop.port}"]
    trusted.cache_clear()


# The operator's exceptions

DB = ["127.0.0.1"]


@pytest.mark.parametrize(
    ("allow", "host", "port", "opens"),
    [
        ("127.0.0.1", "127.0.0.1", 80, True), ("127.0.0.1", "127.0.0.2", 80, False), ("127.0.0.1:81", "127.0.0.1", 81, True),
        ("127.0.0.1:81", "127.0.0.1", 80, False), ("127.0.0.0/8", "127.9.9.9", 8080, True),
        ("127.0.0.0/8", "127.0.0.1", 5432, False), ("127.0.0.1:5432", "127.0.0.1", 5432, True),
        ("127.0.0.0/8:22", "127.3.3.3", 22, True), ("127.0.0.1:5432", PUBLIC, 5432, False), ("::1", "::1", 80, True),
        ("[::1]:99", "::1", 99, True), ("[::1]:99", "::1", 80, False), ("127.0.0.1", "::ffff:127.0.0.1", 80, True),
        ("127.0.0.1", "::1", 80, False), ("localhost", "localhost", 80, True), ("LocalHost.", "LOCALHOST.", 80, True),
        ("localhost", "127.0.0.1", 80, False), ("127.0.0.1", "localhost", 80, False), ("localhost:81", "localhost", 80, False),
        ("localhost", "localhost", 5432, False), ("localhost:5432", "localhost", 5432, True), ("db", "db", 8443, True),
        ("db", "other", 80, False), ("db", "x.db", 80, False), ("inside.example", "inside.example", 80, True),
        ("inside.example", "x.inside.example", 80, False), ("10.0.0.0/8", "inside.example", 80, True),
        ("10.0.0.0/9", "inside.example", 80, True), ("192.168.0.0/16", "inside.example", 80, False),
        ("meta.example", "meta.example", 80, False), ("169.254.169.254", "meta.example", 80, True),
        ("0.0.0.0/0", "meta.example", 80, True), ("public.example:22", "public.example", 22, True),
        ("public.example:22", "public.example", 25, False), ("fe80::/10", "fe80::1%lo", 80, False), ("fe80::/10", "fe80::1", 80, True),
        (" ", "127.0.0.1", 80, False),
    ],
)  # fmt: skip
async def test_an_exception_opens_what_it_names_and_nothing_else(allow: str, host: str, port: int, opens: bool) -> None:
    known = {"localhost": ["127.0.0.1", "::1"], "db": ["10.0.0.5"], "x.db": ["10.0.0.5"], "other": ["10.0.0.5"],
             "inside.example": ["10.0.0.5"], "x.inside.example": ["10.0.0.5"], "meta.example": ["169.254.169.254"],
             "public.example": [PUBLIC], "LOCALHOST": ["127.0.0.1"]}  # fmt: skip
    egress = Egress(allow=[allow], resolve=Names({name: [found] for name, found in known.items()}))
    if opens:
        assert await egress.addresses(host, port)
    else:
        with pytest.raises(Blocked):
            await egress.addresses(host, port)


@pytest.mark.parametrize(
    ("address", "opens"),
    [("64:ff9b::a9fe:a9fe", False), ("64:ff9b:1::a9fe:a9fe", False), ("2002:a9fe:a9fe::1", False), ("::a9fe:a9fe", False),
     ("::ffff:a9fe:a9fe", False), ("::ffff:0:a9fe:a9fe", False), ("64:ff9b::a00:5", True), ("64:ff9b:1::a00:5", True),
     ("2002:a00:5::1", True), ("::ffff:a00:5", True), ("fd00::5", True)],
)  # fmt: skip
async def test_an_exception_for_a_name_opens_no_metadata_however_its_address_is_spelled(
    address: str, opens: bool
) -> None:
    egress = Egress(allow=["db.example"], resolve=Names({"db.example": [[address]]}))
    if opens:
        assert await egress.addresses("db.example", 80)
    else:
        with pytest.raises(Blocked, match="no public address"):
            await egress.addresses("db.example", 80)


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/99", "http://x", "a b", "1.2.3", "*.example", "0x7f.1", "x:0", "[::1", "x/y"]
)
def test_an_exception_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(InvalidRequest, match="neither a host"):
        Egress(allow=[entry])


async def test_an_allowed_site_is_reached_by_all_its_names(home: Site) -> None:
    home.says("/", "hello")
    by_name = Egress(allow=[f"localhost:{home.port}"], resolve=Names({"localhost": [["127.0.0.1"]]}))
    assert (await by_name.fetch(f"http://localhost:{home.port}/", max_bytes=99)).content == b"hello"
    by_address = Egress(allow=["127.0.0.0/8"])
    for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "127。0。0。1", "127.0.0.1."):
        assert (await by_address.fetch(f"http://{host}:{home.port}/", max_bytes=99)).content == b"hello"
    async with by_address.client(headers={"X-Own": "1"}) as client:
        assert (await client.get(home.url())).text == "hello"
    assert home.asked[-1].headers["x-own"] == "1"
    assert len(home.asked) == 6


# What comes back
