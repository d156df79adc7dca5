"""The API for people to read: the OpenAPI document as one page, made here and without a script or another host's files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from starlette.responses import Response

Schema = Mapping[str, Any]

# The console's palette and type (console/src/styles.css).
STYLE: Final = """
:root { --page: #f7f7f8; --panel: #ffffff; --raised: #f1f1f4; --line: #e4e4e9; --ink: #18181d; --soft: #54545f; --accent: #4338ca;
  --good: #14703c; --good-soft: #e4f5ea; --busy: #1d56c4; --busy-soft: #e6effe; --wait: #8a5300; --wait-soft: #fdf1da;
  --bad: #b3261e; --bad-soft: #fdeae8; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f0f13; --panel: #17171d; --raised: #202028; --line: #2a2a34; --ink: #ececf1; --soft: #b3b3c0; --accent: #a5adff;
    --good: #6fd598; --good-soft: #13301f; --busy: #8ab6ff; --busy-soft: #16284a; --wait: #f1bb61; --wait-soft: #382a10;
    --bad: #ff938a; --bad-soft: #421a18; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 16px 64px; max-width: 1000px; background: var(--page); color: var(--ink);
  font: 14px/1.5 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 22px; } h2 { margin: 32px 0 8px; font-size: 17px; } h3 { margin: 16px 0 4px; font-size: 14px; }
a { color: var(--accent); } p { margin: 4px 0; max-width: 80ch; } :focus-visible { outline: 2px solid var(--accent); }
code, .method { font: 13px/1.5 ui-monospace, "SF Mono", "Cascadia Code", "DejaVu Sans Mono", Menlo, Consolas, monospace; }
details, section.schema { margin: 6px 0; padding: 8px 12px; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
summary { cursor: pointer; overflow-wrap: anywhere; } nav a { margin-right: 12px; white-space: nowrap; }
.method { display: inline-block; min-width: 58px; margin-right: 8px; padding: 0 6px; border-radius: 4px; text-align: center; }
.get { color: var(--busy); background: var(--busy-soft); } .post { color: var(--good); background: var(--good-soft); }
.put { color: var(--wait); background: var(--wait-soft); } .delete { color: var(--bad); background: var(--bad-soft); }
.soft { color: var(--soft); } .table { overflow-x: auto; } table { width: 100%; border-collapse: collapse; }
th, td { padding: 4px 12px 4px 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 500; border-top: 0; } td { overflow-wrap: anywhere; min-width: 80px; }
"""
HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}';"
        " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# How a schema's limits are told, by its keyword.
_WORDS: Final = {
    "minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}", "minLength": "at least {} characters",
    "maxLength": "at most {} characters", "minItems": "at least {} items", "maxItems": "at most {} items",
    "maxProperties": "at most {} entries", "pattern": "matches {}", "format": "{}", "default": "default {}",
}  # fmt: skip
_OPEN: Final = "no key is asked for"


def answer(text: str) -> Response:
    """Return a page as it is sent."""
    return Response(text, 200, HEADERS, "text/html")


def page(document: Schema) -> str:
    """Return a document as HTML: every operation by its part, then every schema."""
    info = document["info"]
    parts: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, one in operations.items():
            parts.setdefault((one.get("tags") or ["other"])[0], []).append(
                "".join(_operation(document, method, path, one))
            )
    title = f"{escape(info['title'])} {escape(info['version'])}"
    links = "".join(f'<a href="#{_id(name)}">{escape(name)}</a>' for name in (*parts, "limits", "schemas"))
    limits = [
        (f"<code>{escape(name)}</code>", f"{one['most']:,}", escape(one["description"]))
        for name, one in document["x-limits"].items()
    ]
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>', title, ": the API</title>",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" type="image/svg+xml" href="icon.svg"><style>', STYLE, "</style></head><body>",
            f"<header><h1>{title}</h1>{_text(info['description'])}",
            '<p>A key is sent as <code>Authorization: Bearer KEY</code>; while no key exists none is asked for. The same for programs: ',
            f'<a href="openapi.json">openapi.json</a>.</p><nav>{links}</nav></header><main>',
            *(f'<h2 id="{_id(name)}">{escape(name)}</h2>{"".join(made)}' for name, made in parts.items()),
            '<h2 id="limits">limits</h2>', _table(("limit", "most", "of what"), limits),
            '<h2 id="schemas">schemas</h2>',
            *(_section(name, schema) for name, schema in sorted(document["components"]["schemas"].items())),
            "</main></body></html>\n",
        ]
    )  # fmt: skip


def _operation(document: Schema, method: str, path: str, one: Schema) -> Iterator[str]:
    scopes = " ".join(scope for way in one["security"] for scope in way.get("key", ()))
    told = f"scope <code>{escape(scopes)}</code>" if scopes else _OPEN
    yield f'<details><summary><span class="method {escape(method)}">{method.upper()}</span><code>{escape(path)}</code>'
    yield f" {_soft(told)}</summary>{_text(one.get('description', ''))}"
    if parameters := one.get("parameters"):
        rows = [
            (f"<code>{escape(p['name'])}</code>", p["in"], _type(p["schema"]), _needed(p.get("required", False)), _limits(p["schema"]))
            for p in parameters
        ]  # fmt: skip
        yield "<h3>Parameters</h3>" + _table(("name", "in", "type", "", "limits"), rows)
    if body := one.get("requestBody"):
        yield f"<h3>Body {_soft(_needed(body['required']))}</h3>"
        for media_type, content in body["content"].items():
            yield f"<p>{_type(content['schema'])} {_soft(escape(media_type))}</p>"
            yield _properties(_looked_up(document, content["schema"]))
    answers = []
    for status, response in sorted(one["responses"].items()):
        found = _looked_up(document, response)
        kinds = [f"{_type(c['schema'])} {_soft(escape(m))}" for m, c in found.get("content", {}).items()]
        answers.append((f"<code>{escape(status)}</code>", escape(found["description"]), "<br>".join(kinds)))
    yield "<h3>Answers</h3>" + _table(("status", "when", "what"), answers) + "</details>"


def _section(name: str, schema: Schema) -> str:
    about = _text(schema.get("description", ""))
    shown = _properties(schema) or f"<p>{_type(schema)} {_limits(schema)}</p>"
    return f'<section class="schema" id="{_id(f"schema {name}")}"><h3>{escape(name)}</h3>{about}{shown}</section>'


def _properties(schema: Schema) -> str:
    """Return the table of an object's fields, or nothing."""
    required = schema.get("required", ())
    rows = [
        (f"<code>{escape(name)}</code>", _type(one), _needed(name in required), _limits(one), escape(one.get("description", "")))
        for name, one in schema.get("properties", {}).items()
    ]  # fmt: skip
    return _table(("field", "type", "", "limits", ""), rows) if rows else ""


def _type(schema: Schema) -> str:
    """Return a schema's type in a few words, with links to those that have a name."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f'<a href="#{_id(f"schema {name}")}">{escape(name)}</a>'
    if ways := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(dict.fromkeys(_type(one) for one in ways))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in values)
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}"
    return escape(" | ".join(kind) if isinstance(kind, list) else kind or "any JSON value")


def _limits(schema: Schema) -> str:
    """Return what a value must be besides its type."""
    told = [escape(words.format(schema[name])) for name, words in _WORDS.items() if schema.get(name) is not None]
    within = [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]
    told += [text for text in map(_limits, within) if text]
    return ", ".join(told)


def _looked_up(document: Schema, thing: Schema) -> Schema:
    """Return what a reference within the document leads to, or the thing itself."""
    found: Any = thing
    while "$ref" in found:
        place = found["$ref"]
        found = document
        for name in place.removeprefix("#/").split("/"):
            found = found[name]
    return found  # type: ignore[no-any-return]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table; the cells are HTML."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>'


def _needed(required: bool) -> str:
    return "required" if required else "may be left out"


def _soft(text: str) -> str:
    return f'<span class="soft">{text}</span>'


def _text(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part)


def _id(name: str) -> str:
    return escape(name.lower().replace(" ", "-"))
