"""The page of the API: every operation, every schema, nothing from elsewhere, and no word of it as markup."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from durable_agent.api import reference
from durable_agent.settings import Settings
from tests.support.server import Api, serving

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """What a page has: its text, the ids, where its links lead, what it loads; every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.ids, self.links, self.loaded, self.open = "", set[str](), set[str](), set[str](), list[str]()
        self.feed(text)
        self.words = " ".join(self.words.split())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "iframe", "form")
        for name, value in attrs:
            assert not name.startswith("on")
            assert name != "style"
            if name == "id":
                assert value not in self.ids
                self.ids.add(value or "")
            elif name in ("href", "src"):
                (self.links if tag == "a" else self.loaded).add(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data + " "


@pytest.fixture
async def api(settings: Settings) -> Any:
    async with serving(settings.model_copy(update={"max_body_bytes": 54_321})) as made:
        yield made


async def test_it_tells_every_operation_with_its_scope_and_every_schema(api: Api) -> None:
    answer = await api.http.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    shown, document = Page(answer.text), (await api.http.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, one in operations.items():
            scope = one["security"][0]["key"][0] if one["security"] else ""
            told = f"scope {scope}" if scope else "no key is asked for"
            assert re.search(rf"\b{method.upper()} {re.escape(path)} {told}", shown.words), (method, path)
            for parameter in one.get("parameters", ()):
                assert parameter["name"] in shown.words
    for name, schema in document["components"]["schemas"].items():
        assert f"schema-{name.lower()}" in shown.ids
        assert set(schema.get("properties", ())) <= set(shown.words.split())
    assert "max_body_bytes 54,321" in shown.words
    assert "at most 200 characters" in shown.words
    assert "Body required" in shown.words
    assert "Body may be left out" in shown.words


async def test_its_links_lead_somewhere_and_it_loads_nothing_from_elsewhere(api: Api) -> None:
    answer = await api.http.get("/docs")
    shown = Page(answer.text)
    assert {link.removeprefix("#") for link in shown.links} - shown.ids == {"openapi.json"}
    assert shown.loaded == {"icon.svg"}
    policy = answer.headers["content-security-policy"]
    [style] = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert f"style-src 'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'")


async def test_it_asks_for_a_key_no_more_than_the_document_does_and_not_a_foreign_host(settings: Settings) -> None:
    async with serving(settings) as api:
        await api.http.post("/keys", json={"name": "k", "scopes": ["admin"]})
    async with serving(settings) as api:
        assert (await api.http.get("/runs")).status_code == 401
        for path in ("/docs", "/openapi.json"):
            assert (await api.http.get(path)).status_code == (await api.http.head(path)).status_code == 200
            assert (await api.http.get(path, headers={"Host": "rebound.example"})).status_code == 403


def test_no_word_of_the_document_is_markup() -> None:
    hostile = "<img src=x onerror=alert(1)>\"'&"
    schema = {
        "type": "object", "description": hostile, "required": [hostile],
        "properties": {
            hostile: {"type": "string", "pattern": hostile, "default": hostile, "description": hostile, "format": hostile},
            "b": {"anyOf": [{"enum": [hostile]}, {"const": hostile}, {"type": "array", "items": {"pattern": hostile}}]},
        },
    }  # fmt: skip
    content = {hostile: {"schema": schema}}
    operation = {
        "tags": [hostile], "description": hostile, "security": [{"key": [hostile]}],
        "parameters": [{"name": hostile, "in": "query", "schema": schema}],
        "requestBody": {"required": True, "content": content},
        "responses": {hostile: {"description": hostile, "content": content}},
    }  # fmt: skip
    document = {
        "info": {"title": hostile, "version": hostile, "description": hostile}, "paths": {hostile: {"get": operation}},
        "components": {"schemas": {hostile: schema}}, "x-limits": {hostile: {"most": 1, "description": hostile}},
    }  # fmt: skip
    text = reference.page(document)
    shown = Page(text)
    assert "<img" not in text
    assert shown.loaded == {"icon.svg"}
    assert shown.words.count(hostile) > 20
