"""The console: a built page that asks the API for everything it shows.

Its addresses are the API's own (`/runs/ID` is a run, to a program and to a person), told apart by what the request
accepts: a browser that navigates asks for HTML, everything else gets what it got before there was a console. The files
are no secret and are served without a key.
"""

from __future__ import annotations

import asyncio
import gzip
import html
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

ASGI = Callable[..., Awaitable[None]]
Scope = MutableMapping[str, Any]

PLACE: Final = Path(__file__).parents[1] / "_console"
BUILD: Final = "make console"

_ADDRESSES: Final = re.compile(
    r"/(runs(/[^/]+(/diff/[^/]+)?)?|new|waits|dead-letters|agents(/[^/]+)?|tool-servers(/[^/]+)?|models|graphs(/[^/]+)?"
    r"|workers|settings)?"
)
_ASSET: Final = re.compile(r"/(assets/[\w-][\w.-]*|icon\.svg)", re.ASCII)
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
    ".json": "application/json", ".map": "application/json", ".png": "image/png", ".webp": "image/webp", ".woff2": "font/woff2",
}  # fmt: skip
_PACKED: Final = (".png", ".webp", ".woff2")
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'self'; frame-ancestors 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_NO_CACHE: Final = {**_HEADERS, "Cache-Control": "no-cache", "Vary": "Accept"}
# Vite names a file of assets by its content; the icon keeps its name.
_FOR_EVER: Final = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
_FOR_A_DAY: Final = {**_HEADERS, "Cache-Control": "public, max-age=86400"}

_NOT_BUILT: Final = f"""<!doctype html>
<html lang="en">
  <head><meta charset="utf-8" /><title>durable-agent</title></head>
  <body>
    <h1>durable-agent is running</h1>
    <p>Its console is not built. In the source folder, with Node.js 20.19 or later: <code>{BUILD}</code>, then load this page again.</p>
    <p>The API works without it: <a href="openapi.json">openapi.json</a>, <a href="healthz">healthz</a>.</p>
  </body>
</html>
"""


def built() -> bool:
    """Whether there is a console to show."""
    return (PLACE / "index.html").is_file()


def path_of(scope: Scope) -> str:
    """Return a request's path below the one that the API is served under, whether or not a proxy took that off."""
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] or "/" if root and f"{path}/".startswith(f"{root}/") else path


class Under:
    """Tells every request the path that the API is served under, and sends nobody above it."""

    def __init__(self, app: ASGI, *, root_path: str) -> None:
        self._app = app
        self._root = root_path

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the request on."""

        async def placing(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if headers.get("location", "").startswith("/"):
                    headers["location"] = self._root + headers["location"]
            await send(message)

        if scope["type"] in ("http", "websocket"):
            scope["root_path"] = self._root
        await self._app(scope, receive, placing if scope["type"] == "http" else send)


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it is sent, plain and packed."""

    content: bytes
    packed: bytes | None
    media_type: str


@dataclass(slots=True)
class Console:
    """Answers browsers at the console's addresses, and whoever asks for its files; passes everything else on."""

    app: ASGI
    # What was read once: files named by their content never change.
    _files: dict[str, _File] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        path, headers = path_of(scope), Headers(scope=scope)
        answer = None
        if shared := _ADDRESSES.fullmatch(path) is not None:
            answer = self._page(path, scope) if accepts_html(headers.get("accept", "")) else None
        elif _ASSET.fullmatch(path) is not None:
            answer = await self._asset(path[1:], headers)
        await (answer or self.app)(scope, receive, _varying(send) if shared and answer is None else send)

    def _page(self, path: str, scope: Scope) -> Response | None:
        """Return the page with the base that its links begin with; None at an address of a console that is not built."""
        try:
            text = (PLACE / "index.html").read_text(encoding="utf-8")
        except FileNotFoundError:
            return Response(_NOT_BUILT, 200, _NO_CACHE, "text/html") if path == "/" else None
        base = html.escape(f"{scope.get('root_path', '').rstrip('/')}/")
        return Response(text.replace("<head>", f'<head>\n    <base href="{base}" />', 1), 200, _NO_CACHE, "text/html")

    async def _asset(self, name: str, headers: Headers) -> Response | None:
        """Return a file of the console, or None where there is none."""
        found = self._files.get(name)
        if found is None:
            try:
                found = self._files[name] = await asyncio.to_thread(_read, PLACE / name)
            except (FileNotFoundError, IsADirectoryError, KeyError):
                return None
        caching = _FOR_EVER if name.startswith("assets/") else _FOR_A_DAY
        if found.packed is None:
            return Response(found.content, 200, caching, found.media_type)
        caching = {**caching, "Vary": "Accept-Encoding"}
        if "gzip" in headers.get("accept-encoding", ""):
            return Response(found.packed, 200, {**caching, "Content-Encoding": "gzip"}, found.media_type)
        return Response(found.content, 200, caching, found.media_type)


def accepts_html(accept: str) -> bool:
    """Whether a request names HTML among what it accepts, as a browser does that navigates and no other client."""
    return any(one.split(";")[0].strip().lower() == "text/html" for one in accept.split(","))


def _read(path: Path) -> _File:
    """Return a file as it is sent. Raises FileNotFoundError, KeyError for a kind of file that the console has none of."""
    media_type = _TYPES[path.suffix]
    content = path.read_bytes()
    packed = None if path.suffix in _PACKED else gzip.compress(content, mtime=0)
    return _File(content, packed, media_type)


def _varying(send: Any) -> Any:
    """Return a `send` whose answer says that a browser gets another: else its back button would show JSON."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(raw=message["headers"]).add_vary_header("Accept")
        await send(message)

    return sending
