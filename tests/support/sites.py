"""Sites on loopback, listeners that must not be reached, names that lead where a test says, and every socket opened."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

Writes = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came in; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Site:
    """An HTTP server: it answers each path with what it is given, and keeps what it was asked."""

    host: str = "127.0.0.1"
    port: int = 0
    accepted: int = 0
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, bytes | Writes] = field(default_factory=dict)
    tls_names: list[str | None] = field(default_factory=list)

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, path: str = "/") -> str:
        return f"http://{self.authority}{path}"

    def says(
        self, path: str, body: bytes | str = b"", *, status: str = "200 OK", kind: str = "text/html; charset=utf-8",
        headers: Sequence[str] = (), packed: bool = False,
    ) -> str:  # fmt: skip
        """Answer the path so from now on, and return its URL."""
        content = body.encode() if isinstance(body, str) else body
        content = gzip.compress(content) if packed else content
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers]
        lines += [f"Content-Type: {kind}"] if kind else []
        lines += ["Content-Encoding: gzip"] if packed else []
        self.answers[path] = "\r\n".join(lines).encode() + b"\r\n\r\n" + content
        return self.url(path)

    def leads(self, path: str, to: str, *headers: str, status: str = "302 Found") -> str:
        """Redirect the path to a location, and return its URL."""
        return self.says(path, status=status, headers=[f"Location: {to}", "Connection: close", *headers])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                pairs = (line.partition(": ") for line in head[1:] if line)
                self.asked.append(Asked(method, target, {name.lower(): value for name, _, value in pairs}))
                answer = self.answers.get(target.partition("?")[0])
                if answer is None:
                    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
                if callable(answer):
                    await answer(writer)
                    break
                writer.write(answer)
                await writer.drain()
                if b"Connection: close" in answer:
                    break
        writer.close()


@asynccontextmanager
async def site(host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """Yield a site on an address of loopback."""
    made = Site(host)
    if tls:
        tls.sni_callback = lambda _socket, name, _context: made.tls_names.append(name)
    server = await asyncio.start_server(made.serve, host, port, ssl=tls, limit=1 << 20)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


# Besides the ports they are told, listeners try the ones that URLs without a port and attacks aim at.
AIMED_AT = (80, 443, 5432, 6379, 8080)
AIMED_FROM = ("127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254", "::1")


@dataclass(slots=True)
class Listeners:
    """Sockets that must stay alone: on several addresses of loopback, all at `port`, and at well-known ones that were free."""

    port: int
    sites: list[Site] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        """How many connections came in at any of them."""
        return sum(one.accepted for one in self.sites)


@asynccontextmanager
async def listeners() -> AsyncIterator[Listeners]:
    """Yield listeners on 127/8 and ::1."""
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(site(AIMED_FROM[0]))
        made = Listeners(first.port, [first])
        for host in AIMED_FROM:
            for port in (made.port, *AIMED_AT):
                with contextlib.suppress(OSError):  # taken, not permitted, or no IPv6
                    made.sites.append(await stack.enter_async_context(site(host, port)))
        assert {one.host for one in made.sites if one.port == made.port} >= {"127.0.0.1", "127.0.0.2", "127.1.2.3"}
        yield made


class Names:
    """A resolver: each name's answers in turn, the last for ever; every question is kept."""

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]] | None = None) -> None:
        self.names = {name: list(answers) for name, answers in (names or {}).items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.names.get(host.rstrip("."))
        if not answers:
            raise OSError(f"{host} is not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


# An audit hook stays for the life of its process, so there is one, and it reports to whoever watches.
_watching: list[list[tuple[str, object]]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    what, where = ("connect", arguments[1]) if event == "socket.connect" else ("look-up", arguments[0])
    for seen in _watching:
        seen.append((what, where))
    # Raised here, the call is not made: where a guard fails, the test does, and nothing leaves the machine.
    host = where[0] if isinstance(where, tuple) else where
    if isinstance(where, tuple) or what == "look-up":
        try:
            inside = host is None or ip_address(str(host)).is_loopback
        except ValueError:
            inside = False
        if not inside:
            raise PermissionError(f"a test tried to leave the machine: {what} {where!r}")


sys.addaudithook(_hook)


@contextmanager
def sockets() -> Iterator[list[tuple[str, object]]]:
    """Yield what Python's sockets do meanwhile, connections and look-ups of names; none leaves loopback."""
    seen: list[tuple[str, object]] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        # By identity: lists that saw the same are equal.
        _watching[:] = [one for one in _watching if one is not seen]


def certificate(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """Return a new certificate of its own authority for a name, and a server's context that shows it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, secret)
    return chain, context
