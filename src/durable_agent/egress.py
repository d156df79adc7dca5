"""The one way out to an address that a user, a model or a remote server chose.

A connection is made to a vetted address only. The name is resolved once, every address it leads to is judged, and the
socket is opened to an address that was judged, so a resolver that answers differently the next time gains nothing. The
check sits where connections are made, below every client, so no redirect and no library on top goes around it.

An operator's exceptions are `host`, `host:port`, an address, a network, or either of these with a port (`[…]:port` for
IPv6). One without a port opens ordinary ports only; the port of a database or the like must be named.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpcore2
import httpx2

from durable_agent.addresses import METADATA, Address, embedded, is_public, plain, within
from durable_agent.errors import FatalError, InvalidRequest, RetryableError
from durable_agent.tls import trusted

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

CONNECTIONS = 100
# How many of a name's addresses are tried.
TRIED = 4
# What may follow a redirect to another origin; whatever else a caller sends may be a credential.
HARMLESS_HEADERS = frozenset({"accept", "accept-language", "user-agent"})
ENCODINGS = ("gzip", "deflate")

ORDINARY_PORTS = frozenset({80, 443, 8080, 8443})
# Of the ports from 1024 on, those where something listens that takes orders from whoever reaches it.
SERVICE_PORTS = frozenset({
    1080, 1099, 1433, 1434, 1521, 1723, 1883, 2049, 2181, 2375, 2376, 2377, 2379, 2380, 3128, 3260, 3306, 3389, 4222,
    4369, 5432, 5433, 5671, 5672, 5900, 5984, 5985, 5986, 6000, 6379, 6380, 6432, 6443, 6666, 6667, 7000, 7001, 7077,
    7199, 7474, 7687, 8086, 8300, 8301, 8302, 8500, 8529, 8983, 9000, 9042, 9092, 9100, 9160, 9200, 9300, 9418, 10000,
    10250, 10255, 11211, 11434, 15672, 16379, 25672, 26257, 26379, 27017, 27018, 27019, 28017, 33060, 50000, 50070, 61616,
})  # fmt: skip

_HINT = "; an operator may allow it (DURABLE_AGENT_EGRESS_ALLOW)"

# Names that mean this machine or this network, whatever they resolve to.
LOCAL_NAMES = (
    "localhost", "localdomain", "local", "internal", "intranet", "lan", "corp", "home", "private", "home.arpa", "svc",
    "invalid", "onion",
)  # fmt: skip
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")


class Blocked(FatalError):
    """This URL leads where nobody may be sent; nothing was connected to."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{_shown(url)} is blocked: {why}")
        self.url = _shown(url)
        self.why = why


@dataclass(frozen=True, slots=True)
class Page:
    """What a URL gave: the last hop's URL, its status, and at most the bytes asked for, decompressed."""

    url: str
    status: int
    headers: httpx2.Headers = field(repr=False)
    content: bytes = field(repr=False)
    truncated: bool = False

    @property
    def media_type(self) -> str:
        """The type it says it has, in lower case and without parameters; empty when it says none."""
        return media_type(self.headers)


class Egress:
    """Outbound HTTP to addresses chosen by others; only public ones, and those in `allow`.

    `resolve` gives the addresses of a name, as text (default: the system's). Raises InvalidRequest for an exception in
    `allow` that is none.
    """

    def __init__(self, *, allow: Sequence[str] = (), resolve: Resolve | None = None, timeout_s: float = 30.0) -> None:
        self._exceptions = tuple(_Exception.read(one) for one in allow if one.strip())
        self._resolve = resolve or system_addresses
        self._timeout_s = timeout_s

    def client(self, *, headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
        """Return a client that cannot be led to a forbidden address; the caller closes it.

        It follows no redirect and takes no proxy from the environment. `timeout_s` bounds each read and write, not the
        whole; how much is read is the caller's to bound. A request raises Blocked, and FatalError for an answer that
        is compressed twice or in a way not asked for.
        """
        return httpx2.AsyncClient(
            headers={"Accept-Encoding": ", ".join(ENCODINGS), **(headers or {})}, timeout=self._timeout_s,
            transport=_Transport(self, trusted()), follow_redirects=False, trust_env=False,
        )  # fmt: skip

    async def fetch(
        self, url: str, *, max_bytes: int, redirects: int = 5, headers: Mapping[str, str] | None = None
    ) -> Page:
        """GET the URL and return what it gives, whatever its status, after at most so many redirects.

        Each hop is checked like the first; only harmless headers go on to another origin, and no cookie is kept. The
        body is cut at `max_bytes` after decompression. All of it takes at most `timeout_s`.

        Raises Blocked, FatalError (too many redirects), RetryableError (no connection, cut off, too slow).
        """
        at, sent = _parsed(url), {**(headers or {}), "Accept-Encoding": ", ".join(ENCODINGS)}
        try:
            async with asyncio.timeout(self._timeout_s), self.client() as client:
                for _ in range(redirects + 1):
                    async with client.stream("GET", at, headers=sent) as answer:
                        if not answer.has_redirect_location:
                            content, truncated = await _bounded(answer, max_bytes)
                            return Page(str(at), answer.status_code, answer.headers, content, truncated)
                        onward = _parsed(answer.headers["location"], at)
                    client.cookies.clear()
                    if onward.origin != at.origin:
                        sent = {key: value for key, value in sent.items() if key.lower() in HARMLESS_HEADERS}
                    at = onward
        except TimeoutError:
            raise RetryableError(f"{_shown(url)} took longer than {self._timeout_s:g} s") from None
        except httpx2.HTTPError as error:
            raise RetryableError(f"{_shown(url)} could not be read: {type(error).__name__}: {error}") from error
        raise FatalError(f"{_shown(url)} redirects more than {redirects} times")

    async def addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """Return the addresses of a host that a connection to this port may be made to, resolved once, in their order.

        Raises Blocked unless every one of them may be; httpcore2.ConnectError when there is none.
        """
        name, target = host.lower().removesuffix("."), f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        rules = [one for one in self._exceptions if one.port in (None, port)]
        if not _ordinary(port):
            rules = [one for one in rules if one.port is not None]
            if not rules:
                raise Blocked(target, f"nobody serves pages on port {port}{_HINT}")
        named = any(one.name == name for one in rules)
        literal = _literal(name, target)
        if literal is None and not named and (why := _refused(name)):
            raise Blocked(target, why)
        found = (literal,) if literal else await self._resolved(host, port)
        for address in found:
            if _ordinary(port) and is_public(address):
                continue
            if named and not (within(address, METADATA) or within(embedded(address), METADATA)):
                continue
            if not any(one.covers(address) for one in rules):
                what = "no public address" if _ordinary(port) else f"not open at port {port}"
                raise Blocked(target, f"it leads to {address}, which is {what}{_HINT}")
        return found

    async def _resolved(self, host: str, port: int) -> tuple[Address, ...]:
        try:
            found = tuple(dict.fromkeys(plain(ip_address(one)) for one in await self._resolve(host, port)))
        except (OSError, ValueError) as error:
            raise httpcore2.ConnectError(f"the name {host!r} cannot be resolved: {error}") from error
        if not found:
            raise httpcore2.ConnectError(f"the name {host!r} has no address")
        return found


def media_type(headers: httpx2.Headers) -> str:
    """Return the type that an answer says it has, in lower case and without parameters; empty when it says none."""
    return str(headers.get("content-type", "")).partition(";")[0].strip().lower()


async def system_addresses(host: str, port: int) -> Sequence[str]:
    """Return the addresses that the system's resolver gives. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(frozen=True, slots=True)
class _Exception:
    """One of the operator's exceptions: a name or a network, at a port or at any ordinary one."""

    name: str | None
    network: IPv4Network | IPv6Network | None
    port: int | None

    @classmethod
    def read(cls, text: str) -> _Exception:
        entry = text.strip().lower()
        for host, port in ((entry, None), _split(entry)):
            try:
                return cls(None, ip_network(host[1:-1] if host[:1] + host[-1:] == "[]" else host, strict=False), port)
            except ValueError:
                continue
        host, port = _split(entry)
        name = host.removesuffix(".")
        if not _NAME.fullmatch(name) or _NUMBER.fullmatch(name.rpartition(".")[2]):
            raise InvalidRequest(f"{text!r} is neither a host, host:port, address nor network", field="egress_allow")
        return cls(name, None, port)

    def covers(self, address: Address) -> bool:
        return self.network is not None and address.version == self.network.version and address in self.network


def _split(entry: str) -> tuple[str, int | None]:
    host, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        return host, int(port)
    return entry, None


def _ordinary(port: int) -> bool:
    return port in ORDINARY_PORTS or (1024 <= port <= 65535 and port not in SERVICE_PORTS)


def _literal(name: str, target: str) -> Address | None:
    """Return the address a host is written as, or None for a name. Raises Blocked for an address written otherwise."""
    try:
        address = ip_address(name)
    except ValueError:
        # Resolvers read 127.1, 2130706433, 0x7f000001 and 0177.0.0.1 as addresses; one canonical form is enough.
        if ":" in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
            raise Blocked(target, "its host is an address in another form than usual") from None
        return None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise Blocked(target, "its address names a network interface")
    return plain(address)


def _refused(name: str) -> str | None:
    """Return why a name is refused before anybody resolves it, or None."""
    if len(name) > 253 or not _NAME.fullmatch(name):
        return "its host is no name of the public internet"
    if "." not in name or any(f".{name}".endswith(f".{local}") for local in LOCAL_NAMES):
        return f"{name!r} is a name of this machine or its network{_HINT}"
    return None


def _shown(url: str) -> str:
    """Return a URL as a message may show it: without what may be a secret."""
    bare = re.sub(r"//[^/?#]*@", "//", url).partition("?")[0].partition("#")[0]
    return "".join(char for char in bare[:200] if char.isprintable()) or "an empty URL"


def _parsed(url: str, base: httpx2.URL | None = None) -> httpx2.URL:
    try:
        made = base.join(url) if base else httpx2.URL(url.strip())
        made.host  # noqa: B018  decoded only when asked for, and may fail
    except (httpx2.InvalidURL, ValueError):
        raise Blocked(url, "it is no valid URL") from None
    return _for_the_web(made)


def _for_the_web(url: httpx2.URL) -> httpx2.URL:
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise Blocked(str(url), "it is no http or https URL with a host")
    if url.userinfo:
        raise Blocked(str(url), "it carries a user name or a password")
    if url.port == 0:  # below, taken for none
        raise Blocked(str(url), "there is no port 0")
    return url


async def _bounded(answer: httpx2.Response, max_bytes: int) -> tuple[bytes, bool]:
    """Return the first bytes of a body, decompressed piece by piece, and whether there were more."""
    content = bytearray()
    async with aclosing(answer.aiter_bytes()) as parts:
        async for part in parts:
            content += part[: max_bytes + 1 - len(content)]
            if len(content) > max_bytes:
                return bytes(content[:max_bytes]), True
    return bytes(content), False


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise the client's exceptions, which are named like those of the layer below."""
    try:
        yield
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise getattr(httpx2, type(error).__name__)(str(error)) from error


class _Transport(httpx2.AsyncBaseTransport):
    """Requests through connections made by `_Backend`. Built on the layer's public parts, so that an update of the
    libraries can break it but not quietly open it."""

    def __init__(self, egress: Egress, tls: ssl.SSLContext) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls, max_connections=CONNECTIONS, keepalive_expiry=5.0, network_backend=_Backend(egress)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = _for_the_web(request.url)
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        asked = httpcore2.Request(
            request.method, httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw, content=request.stream, extensions=request.extensions,
        )  # fmt: skip
        try:
            with _as_httpx():
                got = await self._pool.handle_async_request(asked)
        except Blocked as error:
            raise Blocked(str(url), error.why) from None
        answer = httpx2.Response(got.status, headers=got.headers, stream=_Body(got), extensions=got.extensions)
        codings = [one.strip().lower() for one in answer.headers.get_list("content-encoding", split_commas=True)]
        codings = [one for one in codings if one not in ("identity", "")]
        # Twice compressed, a few bytes become more work than any bound on the output notices.
        if codings[1:] or not set(codings) <= set(ENCODINGS):
            await answer.aclose()
            raise FatalError(f"{_shown(str(url))} answers with a body compressed as {', '.join(codings)[:80]!r}")
        return answer

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._answer.stream, AsyncIterable)
        with _as_httpx():
            async for part in self._answer.stream:
                yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Backend(httpcore2.AsyncNetworkBackend):
    """Connects to vetted addresses; the name stays with TLS and the Host header."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:  # fmt: skip
        try:
            async with asyncio.timeout(timeout):
                found = (await self._egress.addresses(host, port))[:TRIED]
        except TimeoutError:
            raise httpcore2.ConnectTimeout(f"the name {host!r} was not resolved in time") from None
        share = timeout / len(found) if timeout is not None else None
        failed: Exception = httpcore2.ConnectError(f"no address of {host!r} was tried")
        for address in found:
            try:
                return await self._plain.connect_tcp(str(address), port, share, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
