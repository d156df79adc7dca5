"""What comes back from outside: redirects, credentials, sizes, packing, answers that are none."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib

import pytest

from durable_agent.egress import Egress
from durable_agent.errors import FatalError, RetryableError
from tests.support.sites import Site, site

pytestmark = pytest.mark.usefixtures("inside")


async def test_redirects_are_followed_to_their_end_and_not_for_ever(home: Site) -> None:
    for number in range(6):
        home.leads(f"/{number}", f"/{number + 1}", status="307 Temporary Redirect")
    home.says("/6", "end", status="418 Teapot", headers=["X-Mark: yes"])
    egress = Egress(allow=[home.authority])
    page = await egress.fetch(home.url("/1"), max_bytes=99)
    assert (page.url, page.status, page.content, page.truncated) == (home.url("/6"), 418, b"end", False)
    assert (page.headers["x-mark"], page.media_type) == ("yes", "text/html")
    with pytest.raises(FatalError, match="more than 5 times"):
        await egress.fetch(home.url("/0"), max_bytes=99)


async def test_credentials_stay_at_their_origin(home: Site) -> None:
    sent = {"Authorization": "secret", "cookie": "secret", "X-Api-Key": "secret", "Accept-Language": "de"}
    async with site("127.0.0.2") as other:
        home.leads("/", "/same", "Set-Cookie: planted=1; Path=/")
        home.leads("/same", other.url("/there"))
        other.leads("/there", home.url("/back"))
        home.says("/back", "done")
        await Egress(allow=["127.0.0.0/8"]).fetch(home.url(), max_bytes=99, headers=sent)
    first, same, back = (one.headers for one in home.asked)
    assert first["authorization"] == same["authorization"] == first["x-api-key"] == same["x-api-key"] == "secret"
    assert first["cookie"] == same["cookie"] == "secret"
    for headers in (other.asked[0].headers, back):
        assert headers["accept-language"] == "de"
        assert "secret" not in str(headers)
    assert "planted" not in str([*home.asked, *other.asked])


@pytest.mark.parametrize(("size", "truncated"), [(99, False), (100, False), (101, True), (300_000, True)])
@pytest.mark.parametrize("packed", [False, True])
async def test_a_body_is_cut_where_it_was_told(home: Site, size: int, truncated: bool, packed: bool) -> None:
    url = home.says("/", b"x" * size, packed=packed)
    page = await Egress(allow=[home.authority]).fetch(url, max_bytes=100)
    assert (page.content, page.truncated) == (b"x" * min(size, 100), truncated)


def _bomb(megabytes: int, rounds: int = 1) -> bytes:
    body = bytes(megabytes << 20)
    for _ in range(rounds):
        body = zlib.compress(body, 9, zlib.MAX_WBITS | 16)
    return body


async def test_a_gzip_bomb_takes_no_more_memory_than_its_bound(home: Site) -> None:
    home.says("/", _bomb(200), headers=["Content-Encoding: gzip"])
    egress = Egress(allow=[home.authority])
    tracemalloc.start()
    page = await egress.fetch(home.url(), max_bytes=2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(page.content), page.truncated) == (2_000_000, True)
    assert peak < 16 << 20


@pytest.mark.parametrize(
    "coding", ["gzip, gzip", "gzip, gzip, gzip, gzip", "deflate,gzip", "br", "zstd", "gzip, identity, gzip"]
)
async def test_a_body_packed_twice_or_unasked_is_refused(home: Site, coding: str) -> None:
    home.says("/", _bomb(20, 2), headers=[f"Content-Encoding: {coding}"])
    with pytest.raises(FatalError, match="compressed as"):
        await Egress(allow=[home.authority]).fetch(home.url(), max_bytes=99)


async def test_a_body_that_never_ends_is_cut_by_its_size_or_by_the_time(home: Site) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def nothing(writer: asyncio.StreamWriter) -> None:
        """Send compressed bytes for ever that come to no output at all."""
        packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packer.compress(b""))
        while True:
            writer.write(b"\0\0\0\xff\xff" * 1000)
            await writer.drain()

    home.answers |= {"/endless": endless, "/nothing": nothing}
    page = await Egress(allow=[home.authority]).fetch(home.url("/endless"), max_bytes=1_000_000)
    assert (len(page.content), page.truncated) == (1_000_000, True)
    with pytest.raises(RetryableError, match=r"longer than 0\.3 s"):
        await Egress(allow=[home.authority], timeout_s=0.3).fetch(home.url("/nothing"), max_bytes=1_000_000)


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
                                    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxxx"])  # fmt: skip
async def test_an_answer_that_is_none_can_be_tried_again(home: Site, answer: bytes) -> None:
    async def broken(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    home.answers["/"] = broken
    with pytest.raises(RetryableError, match="could not be read"):
        await Egress(allow=[home.authority]).fetch(home.url(), max_bytes=99)


async def test_a_site_that_is_down_can_be_tried_again() -> None:
    async with site() as gone:
        pass
    with pytest.raises(RetryableError, match="ConnectError"):
        await Egress(allow=[gone.authority]).fetch(gone.url(), max_bytes=99)
