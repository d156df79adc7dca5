"""The built-in tools: arithmetic, a page, a search, a question to a person, a file.

What a page or a search gives is data from strangers: its size is bounded and it holds no control characters, none that
turn the direction of text and none that only a model can see.
"""

from __future__ import annotations

import ast
import asyncio
import codecs
import contextlib
import hashlib
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Literal, cast
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

from durable_agent.agents.catalog import OFFLINE, Catalog
from durable_agent.agents.hidden import hides, shown
from durable_agent.egress import Egress, Page
from durable_agent.errors import FatalError, InvalidRequest, RateLimited, RetryableError
from durable_agent.flow.context import Context
from durable_agent.flow.http import retry_after_s
from durable_agent.flow.tools import Tool, step, tool

Search = Literal["duckduckgo", "offline"]
MODE = "DURABLE_AGENT_WEB_SEARCH"
SEARCH_URL = "https://html.duckduckgo.com/html/"
USER_AGENT = "Mozilla/5.0 (compatible; durable-agent)"

TEXT_LIMIT_BYTES = 200_000
PAGE_LIMIT_BYTES = 2_000_000
TITLE_LIMIT = 300
SNIPPET_LIMIT = 600
URL_LIMIT = 2_000
QUERY_LIMIT = 500
RESULTS_LIMIT = 20
RETRY_AFTER_LIMIT_S = 3600.0

EXPRESSION_LIMIT = 500
DEPTH_LIMIT = 256
BITS_LIMIT = 4_096
# Beyond this, JSON's readers take a whole number for another one.
EXACT = 2**53

_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
# Codecs of text only: others are slow, or no encoding of text at all.
_CODECS = re.compile(
    r"utf-(8|16|16-le|16-be|32)(-sig)?|ascii|iso8859.*|cp\d+|koi8.*|gb.*|big5.*|shift_jis.*|euc.*|mac.*"
)
_TEXT_TYPES = re.compile(r"text/[\w.+-]+|application/(?:[\w.-]+\+)?(?:json|xml|yaml|x-ndjson|javascript|toml)")


@dataclass(frozen=True, slots=True)
class WebTools:
    """What the tools that go out need. `search` offline, the search goes nowhere and makes its results up."""

    egress: Egress
    search: Search = "duckduckgo"
    search_url: str = SEARCH_URL

    def tools(self) -> tuple[Tool, ...]:
        """Return `read_url` and `web_search`."""
        return tool("read_url", effect="safe")(self.read_url), tool("web_search", effect="safe")(self.web_search)

    async def read_url(self, url: str) -> dict[str, Any]:
        """Read a public web page and return its title and its text. Use it to see what a URL says.

        Plain text and JSON come as they are; other kinds of content are refused. `truncated` says that there is more.
        """
        page = await self.egress.fetch(url, max_bytes=PAGE_LIMIT_BYTES, headers={"User-Agent": USER_AGENT})
        title, text = await asyncio.to_thread(_readable, _answered(page))
        cut = text.encode()[:TEXT_LIMIT_BYTES].decode(errors="ignore")
        return {"url": page.url, "title": title, "text": cut, "truncated": page.truncated or len(cut) < len(text)}

    async def web_search(self, query: str, limit: int = 5) -> list[dict[str, Any]]:
        """Search the web and return the first results: title, URL and a snippet of each.

        `limit` is from 1 to 20. Results marked offline are made up from the query: no search was made.
        """
        asked, wanted = _line(query, QUERY_LIMIT), min(max(limit, 1), RESULTS_LIMIT)
        if not asked:
            raise FatalError("the query is empty: say what to search for")
        if self.search == "offline":
            return [_made_up(asked, number) for number in range(1, wanted + 1)]
        url = f"{self.search_url}{'&' if '?' in self.search_url else '?'}{urlencode({'q': asked})}"
        page = _answered(await self.egress.fetch(url, max_bytes=PAGE_LIMIT_BYTES, headers={"User-Agent": USER_AGENT}))
        if page.status == 202:
            raise RateLimited("the search engine answers with a riddle instead of results")
        return (await asyncio.to_thread(_results, page))[:wanted]


def web_tools_from_env(env: Mapping[str, str]) -> WebTools:
    """Return what the environment says; by default the search is offline where no model provider's key is.

    Raises InvalidRequest for a mode that is none.
    """
    mode = env.get(MODE, "").strip().lower() or "auto"
    if mode == "auto":
        models = Catalog.from_env(env).available()
        mode = "duckduckgo" if any(one.has_key and one.provider != OFFLINE for one in models) else "offline"
    if mode not in ("duckduckgo", "offline"):
        raise InvalidRequest(f"{MODE} is {mode!r}; use duckduckgo, offline or auto", field=MODE)
    egress = Egress(allow=env.get("DURABLE_AGENT_EGRESS_ALLOW", "").split(","))
    return WebTools(egress, cast(Search, mode), env.get("DURABLE_AGENT_WEB_SEARCH_URL", "").strip() or SEARCH_URL)


def built_in(env: Mapping[str, str]) -> tuple[Tool, ...]:
    """Return all built-in tools, as the environment configures them."""
    return (calculator, *web_tools_from_env(env).tools(), request_human_input, create_text_artifact)


@step("request_human_input")
async def request_human_input(ctx: Context, question: str, schema: dict[str, Any] | None = None) -> Any:
    """Ask a person a question and wait for the answer. Use it when only a person can know or decide.

    `schema`, a JSON Schema, says what form the answer must have.
    """
    return await ctx.ask(question, schema=schema, name="question")


@tool("create_text_artifact", effect="safe")
async def create_text_artifact(ctx: Context, name: str, content: str, media_type: str = "text/markdown") -> Any:
    """Store a text as a file of this run that people can read and download. Use it for the finished result.

    The same name again replaces it.
    """
    if not _TEXT_TYPES.fullmatch(media_type.partition(";")[0].strip().lower()):
        raise FatalError(f"{media_type[:80]!r} is no type of text: use text/markdown, text/plain, application/json, …")
    return await ctx.artifact(name, content, media_type=media_type)


@tool("calculator", effect="safe")
async def calculator(expression: str) -> dict[str, Any]:
    """Compute an arithmetic expression, such as `(3 + 4) * 2 ** 10` or `sqrt(2) / pi`.

    It knows + - * / // % **, pi, e, and abs, ceil, cos, exp, factorial, floor, log, log10, log2, max, min, round, sin,
    sqrt, tan. A whole number too long for JSON comes as text.
    """
    if len(expression) > EXPRESSION_LIMIT:
        raise FatalError(f"the expression has {len(expression)} characters, more than {EXPRESSION_LIMIT}")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body, 0)
    except (SyntaxError, RecursionError, MemoryError):
        raise FatalError(f"{expression[:80]!r} is no arithmetic expression") from None
    except (ArithmeticError, ValueError, TypeError) as error:
        raise FatalError(f"{expression[:80]!r} cannot be computed: {error}") from None
    exact = isinstance(value, float) or abs(value) <= EXACT
    return {"expression": expression, "result": value if exact else str(value)}


_Number = int | float
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: lambda base, power: _power(base, power),
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "ceil": math.ceil, "cos": math.cos, "exp": math.exp, "factorial": lambda n: _factorial(n),
    "floor": math.floor, "log": math.log, "log10": math.log10, "log2": math.log2, "max": max, "min": min,
    "round": lambda value, digits=0: _round(value, digits), "sin": math.sin, "sqrt": math.sqrt, "tan": math.tan,
}  # fmt: skip


def _value(node: ast.expr, depth: int) -> _Number:
    """Return what a node comes to. Whatever is not listed here is refused, and every step's size is bounded."""
    if depth > DEPTH_LIMIT:
        raise FatalError(f"the expression nests deeper than {DEPTH_LIMIT}")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=inner) if type(sign) in _UNARY:
            return _bounded(_UNARY[type(sign)](_value(inner, depth + 1)))
        case ast.BinOp(left=left, op=ast.BitXor(), right=right):
            raise FatalError("'^' is not known: write ** for a power")
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _bounded(_BINARY[type(sign)](_value(left, depth + 1), _value(right, depth + 1)))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*(_value(one, depth + 1) for one in given)))
        case _:
            raise FatalError(f"{ast.unparse(node)[:80]!r} is not known here: only numbers, operators and functions")


def _bounded(value: Any) -> _Number:
    if isinstance(value, int) and value.bit_length() <= BITS_LIMIT:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise FatalError("a number comes out too large, infinite or complex")


def _power(base: _Number, power: _Number) -> Any:
    bits = base.bit_length() * power if isinstance(base, int) and abs(base) > 1 else 0
    if isinstance(power, int) and bits > 2 * BITS_LIMIT:
        raise FatalError(f"the power has more than {BITS_LIMIT} bits")
    return base**power


def _factorial(number: _Number) -> int:
    if not isinstance(number, int) or not 0 <= number <= 500:
        raise FatalError("factorial takes a whole number from 0 to 500")
    return math.factorial(number)


def _round(value: _Number, digits: _Number) -> _Number:
    if not isinstance(digits, int) or abs(digits) > 50:
        raise FatalError("round takes at most 50 digits")
    return round(value, digits) if digits else round(value)


def _answered(page: Page) -> Page:
    """Return the page. Raises by its status: RateLimited for 429 and 503, RetryableError for 5xx, else FatalError."""
    said = f"{page.url[:200]}: HTTP {page.status}"
    match page.status:
        case 429 | 503:
            after_s = retry_after_s(page.headers.get("Retry-After"))
            raise RateLimited(said, retry_after_s=None if after_s is None else min(after_s, RETRY_AFTER_LIMIT_S))
        case status if status >= 500:
            raise RetryableError(said)
        case status if status >= 300:
            raise FatalError(said)
        case _:
            return page


def _readable(page: Page) -> tuple[str, str]:
    """Return a page's title and text. Raises FatalError for what is no text."""
    match page.media_type:
        case "text/html" | "application/xhtml+xml":
            read = _Reader()
            _parse(read, _decoded(page))
            return _line("".join(read.title), TITLE_LIMIT), read.text()
        case kind if _TEXT_TYPES.fullmatch(kind) or (not kind and b"\0" not in page.content[:4096]):
            return "", shown(_decoded(page))
        case kind:
            raise FatalError(f"{page.url[:200]} is {kind[:80] or 'of no known type'}, not text")


def _decoded(page: Page) -> str:
    """Return the body as text, in the encoding that the header names, else the page itself, else UTF-8."""
    head = page.content[:1024].decode("latin-1")
    named = _CHARSET.search(page.headers.get("content-type", "")) or _CHARSET.search(head)
    try:
        name = codecs.lookup(named[1]).name if named else "utf-8"
    except LookupError:
        name = "utf-8"
    return page.content.decode(name if _CODECS.fullmatch(name) else "utf-8", errors="replace")


def _parse(parser: HTMLParser, text: str) -> None:
    """Feed a page to the parser; what it cannot parse ends the page where it stands."""
    with contextlib.suppress(AssertionError, ValueError):
        # At once and never closed, which keeps it linear: closed, it tries anew at every `<` after what does not end.
        parser.feed(text + "\n")


def _line(text: str, limit: int) -> str:
    """Return the text as one line, without what is hidden in it."""
    return " ".join(shown(text).split())[:limit]


_KINDS = {
    **dict.fromkeys(("script", "style", "noscript", "template", "svg", "canvas", "iframe", "object", "audio", "video",
                     "select", "button", "textarea"), "silent"),
    **dict.fromkeys(("nav", "footer", "aside", "menu"), "aside"), "title": "title",
}  # fmt: skip
_BREAKS = frozenset({
    "address", "article", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "form", "h1", "h2", "h3", "h4", "h5", "h6",
    "header", "hr", "li", "main", "ol", "p", "pre", "section", "table", "tr", "ul", "nav", "footer", "aside", "menu",
})  # fmt: skip


class _Reader(HTMLParser):
    """Collects a page's title and the text of its body, without what is there for the browser or for finding one's way."""

    def __init__(self) -> None:
        super().__init__()
        self.title: list[str] = []
        self._main: list[str] = []
        self._aside: list[str] = []
        self._open: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in ("main", "article"):
            self._open.clear()  # what was left open before the content does not swallow it
        if kind := _KINDS.get(tag):
            self._open[kind] += 1
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        if tag in _BREAKS:
            self.handle_data("\n")
        elif tag in ("td", "th"):
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        kind = _KINDS.get(tag)
        if kind and self._open[kind]:
            self._open[kind] -= 1
        self.handle_startendtag(tag, ())

    def handle_data(self, data: str) -> None:
        if self._open["silent"]:
            return
        if self._open["title"]:
            self.title.append(data)
        else:
            (self._aside if self._open["aside"] else self._main).append(data)

    def text(self) -> str:
        """Return the text in lines; a page that is nothing but navigation gives that."""
        return _lines("".join(self._main)) or _lines("".join(self._aside))


def _lines(text: str) -> str:
    lines = (" ".join(line.split()) for line in shown(text).split("\n"))
    return "\n".join(line for line in lines if line)


def _made_up(query: str, number: int) -> dict[str, Any]:
    """Return a result that depends on the query and its place alone, and says that it is none."""
    digest = hashlib.sha256(f"{number}|{query}".encode()).hexdigest()[:12]
    said = f"No search was made. This stands for what a search engine would say about: {query}"
    title, url = f"Offline result {number} for: {query}", f"https://example.invalid/{digest}"
    return {"title": title, "url": url, "snippet": said, "offline": True}


def _results(page: Page) -> list[dict[str, Any]]:
    read = _Results()
    _parse(read, _decoded(page))
    found = []
    for one in read.found:
        url, title = _unwrapped(page.url, one.href), _line("".join(one.title), TITLE_LIMIT)
        if url and title:
            found.append({"title": title, "url": url, "snippet": _line("".join(one.snippet), SNIPPET_LIMIT)})
    return found


def _unwrapped(base: str, href: str) -> str | None:
    """Return where a result's link leads in the end; None for an advertisement or what is no web address."""
    try:
        url = urljoin(base, href)
        parts = urlsplit(url)
        if parts.path == "/l/" and (target := parse_qs(parts.query).get("uddg")):
            url, parts = target[0], urlsplit(target[0])
    except ValueError:
        return None
    advertised = (parts.hostname or "").endswith("duckduckgo.com") and parts.path == "/y.js"
    usable = parts.scheme in ("http", "https") and parts.hostname and len(url) <= URL_LIMIT and not advertised
    return url if usable and not re.search(r"\s", url) and not hides(url) else None


@dataclass(slots=True)
class _Found:
    href: str
    title: list[str] = field(default_factory=list)
    snippet: list[str] = field(default_factory=list)


class _Results(HTMLParser):
    """Collects links of class `result__a` and the snippets of class `result__snippet` that follow them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Found] = []
        self._into: tuple[str, list[str]] | None = None

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        classes = (given.get("class") or "").split()
        if "result__a" in classes and tag == "a":
            self.found.append(_Found(given.get("href") or ""))
            self._into = (tag, self.found[-1].title)
        elif "result__snippet" in classes and self.found:
            self._into = (tag, self.found[-1].snippet)

    def handle_endtag(self, tag: str) -> None:
        if self._into and self._into[0] == tag:
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into:
            self._into[1].append(data)
