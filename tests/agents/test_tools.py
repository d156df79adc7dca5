"""The built-in tools against sites on loopback: what a model gets from hostile arithmetic, pages and results."""

from __future__ import annotations

import math
from typing import Any

import pytest

from durable_agent.agents.tools import (
    PAGE_LIMIT_BYTES,
    SEARCH_URL,
    TEXT_LIMIT_BYTES,
    WebTools,
    built_in,
    calculator,
    web_tools_from_env,
)
from durable_agent.egress import Blocked, Egress
from durable_agent.errors import FatalError, InvalidRequest, RateLimited, RetryableError
from tests.support.sites import Site, site, sockets

pytestmark = pytest.mark.usefixtures("inside")


# calculator


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("2 ** 10", 1024), ("7 // 2", 3), ("7 % 4", 3), ("7 / 2", 3.5), ("-3 + +5", 2),
        ("2 ** -1", 0.5), ("1e3", 1000.0), ("0x10", 16), ("1_000", 1000), ("pi", math.pi), ("e", math.e), ("sqrt(16)", 4.0),
        ("max(1, 5, 3)", 5), ("min(1, 5, 3)", 1), ("abs(-4)", 4), ("round(2.567, 2)", 2.57), ("round(2.4)", 2),
        ("floor(2.9)", 2), ("ceil(2.1)", 3), ("factorial(5)", 120), ("log(e)", 1.0), ("log(8, 2)", 3.0), ("log10(1000)", 3.0),
        ("log2(8)", 3.0), ("cos(0)", 1.0), ("  1 + 1  ", 2), ("2 ** 53", 2**53), ("2 ** 53 + 1", str(2**53 + 1)),
        ("10 ** 30", "1" + "0" * 30), ("-(2 ** 64)", str(-(2**64))), ("+".join(["1"] * 200), 200), ("(-1) ** 10 ** 300", 1),
    ],
)  # fmt: skip
async def test_arithmetic_is_computed(expression: str, result: Any) -> None:
    value = (await calculator(expression=expression))["result"]
    assert value == result
    assert type(value) is type(result)


@pytest.mark.parametrize(
    "expression",
    [
        "", " ", "1 +", "9**9**9", "9**9**9**9", "2 ** 100000", "2 ** 4097", "10 ** 2000", "1e308 * 10", "(-8) ** 0.5", "1 / 0",
        "1 % 0", "0 ** -1", "factorial(501)", "factorial(10**9)", "factorial(-1)", "factorial(2.5)", "round(5, 10**9)",
        "round(5, -10**9)", "round(1.5, 0.5)", "sqrt(-1)", "log(0)", "floor(1e308) * floor(1e308) * floor(1e308) * floor(1e308)"
        " * floor(1e308)", "__import__('os')", "__import__('os').system('id')", "open('/etc/passwd')", "exec('1')", "eval('1')",
        "().__class__.__bases__", "(1).__class__", "[1]", "[1] * 10**9", "'a' * 10**9", "'a'", "b'a'", "f'{1}'", "{1: 2}", "{1}",
        "lambda: 1", "(lambda: 1)()", "x", "abs", "pi.real", "max(*[1])", "max(1, key=abs)", "max()", "max(1)", "sqrt()",
        "sqrt(1, 2)", "1 if 1 else 2", "1 and 2", "not 1", "~1", "1 < 2", "1 << 99999999", "1 | 2", "1 ^ 2", "1 @ 2", "1j", "True",
        "None", "...", "a := 1", "(a := 1)", "1; 2", "1\n2", "x = 1", "yield 1", "await 1", "1,000 + 2", "[x for x in (1,)]",
        "1 + 'a'", "1\x002", "(" * 240 + "1" + ")" * 240, "-" * 499 + "1", "~" * 499 + "1", "9" * 501, "1+" * 300 + "1",
        "nan", "inf", "1e999", "-1e999", "pi(1)", "abs(abs)", "ｏｐｅｎ(1)", "print(1)", "globals()", "e.__class__",
    ],
)  # fmt: skip
async def test_whatever_is_no_bounded_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(FatalError) as caught:
        await calculator(expression=expression)
    assert str(caught.value)
    assert len(str(caught.value)) < 300


async def test_a_power_is_spelled_as_python_does() -> None:
    with pytest.raises(FatalError, match=r"write \*\* for a power"):
        await calculator(expression="2 ^ 3")


# read_url


async def test_a_page_is_read_as_its_title_and_text(home: Site, web: WebTools) -> None:
    home.says(
        "/", """<!doctype html><html><head><title> The
        &amp; Title </title><style>p{color:red}</style><script>if (1 < 2) { document.write("<p>no</p>") }</script></head>
        <body><nav><a href=/>Home</a></nav><header><h1>Head</h1></header><p>One <b>bold</b>&nbsp;word.</p>
        <ul><li>first<li>second</ul><table><tr><td>a</td><td>b</td></tr></table><noscript>none</noscript>
        <template>none</template><svg><title>none</title><text>none</text></svg><textarea>none</textarea>
        <p>AT&T &lt;kept&gt;</p><aside>Ads</aside><footer>Feet</footer></body></html>""",
    )  # fmt: skip
    assert await web.read_url(home.url()) == {
        "url": home.url("/"), "title": "The & Title", "truncated": False,
        "text": "Head\nOne bold word.\nfirst\nsecond\na b\nAT&T <kept>",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", ""), ("plain", "plain"), ("<p>a<p>b", "a\nb"), ("<p>a</div></span></p>b</nav>c", "a\nb\nc"),
        ("<b><i>a</b></i> b", "a b"), ("a < b and b > c", "a < b and b > c"), ("a<br/>b<br>c", "a\nb\nc"), ("x<!-- y --> z", "x z"),
        ("a<p", "a"), ("a<!-- never closed <p>b", "a"), ("a<script>never closed <p>b</p>", "a"), ("a<![CDATA[ b ]]>c", "ac"),
        ("a<![if IE]>b", None), ("a<![odd[x]]>b", None), ("<p>&#xD800;&#1114112;&#0;a&bogus;", None), ("&#" + "9" * 5000 + ";", None),
        ("<nav>only this", "only this"), ("<nav>never closed<main>the text", "the text"),
        ("<div hidden><button>b<article>the text", "the text"), ("<a href='x>never closed", ""), ("\0a\0", "a"),
        ("<svg/>a<script/>", "a"), ("<P CLASS=x>A</P><SCRIPT>b</SCRIPT >C", "A\nC"), ("<td>a</td><td>b</td>", "a b"),
    ],
)  # fmt: skip
async def test_malformed_html_gives_what_can_be_read(home: Site, web: WebTools, body: str, text: str | None) -> None:
    found = await web.read_url(home.says("/", body))
    assert isinstance(found["text"], str)
    assert text is None or found["text"] == text


@pytest.mark.parametrize(
    "body",
    ["<a" * 900_000, "<!--" * 450_000, "<!" * 900_000, "</" * 900_000, "<![CDATA[" * 200_000, "&" * 1_900_000, "<div>" * 380_000,
     "<script>" + "</script " * 200_000, "<a x='" * 300_000, "<a " + "=" * 1_900_000, "<title>" * 270_000, "<" * 1_900_000],
    ids=lambda body: body[:10],
)  # fmt: skip
async def test_a_page_made_to_be_slow_is_read_in_linear_time(home: Site, web: WebTools, body: str) -> None:
    """Where the parser tries again at every `<`, this takes hours."""
    found = await web.read_url(home.says("/", body, packed=True))
    assert len(found["text"]) <= TEXT_LIMIT_BYTES


@pytest.mark.parametrize(
    "size", [TEXT_LIMIT_BYTES - 1, TEXT_LIMIT_BYTES, TEXT_LIMIT_BYTES + 1, PAGE_LIMIT_BYTES + 9_000_000]
)
@pytest.mark.parametrize("kind", ["text/html", "text/plain"])
async def test_a_large_page_is_cut(home: Site, web: WebTools, size: int, kind: str) -> None:
    found = await web.read_url(home.says("/", "x" * size, kind=kind, packed=True))
    assert len(found["text"]) == min(size, TEXT_LIMIT_BYTES)
    assert found["truncated"] is (size > TEXT_LIMIT_BYTES)


async def test_a_text_is_cut_between_characters(home: Site, web: WebTools) -> None:
    found = await web.read_url(home.says("/", "€" * TEXT_LIMIT_BYTES, kind="text/plain; charset=utf-8"))
    assert found["text"] == "€" * (TEXT_LIMIT_BYTES // 3)
    assert found["truncated"] is True


@pytest.mark.parametrize(
    "kind", ["application/json", "application/problem+json; charset=utf-8", "text/plain", "text/csv", ""]
)
async def test_text_and_json_come_as_they_are(home: Site, web: WebTools, kind: str) -> None:
    found = await web.read_url(home.says("/", '{"a":  "<b>&amp;</b>"}\n\n  x', kind=kind))
    assert (found["title"], found["text"]) == ("", '{"a":  "<b>&amp;</b>"}\n\n  x')


@pytest.mark.parametrize(
    "kind",
    [
        "application/pdf",
        "image/png",
        "image/svg+xml",
        "application/octet-stream",
        "application/zip",
        "video/mp4",
        "x",
        "text/",
    ],
)
async def test_other_types_are_refused(home: Site, web: WebTools, kind: str) -> None:
    with pytest.raises(FatalError, match="not text"):
        await web.read_url(home.says("/", "%PDF-1.7", kind=kind))


async def test_bytes_that_say_no_type_and_look_like_none_are_refused(home: Site, web: WebTools) -> None:
    with pytest.raises(FatalError, match="no known type"):
        await web.read_url(home.says("/", b"\x7fELF\0\0", kind=""))


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("text/html; charset=iso-8859-1", b"<p>\xe4", "ä"), ("text/html", b"<meta charset='windows-1252'><p>\x80", "€"),
        ("text/html", b'<meta content="text/html; charset=koi8-r"><p>\xc1', "а"), ("text/html", "<p>ä".encode(), "ä"),
        ("text/html; charset=utf-8", b"<p>\xff\xfe", "��"), ("text/html; charset=no-such", "<p>ä".encode(), "ä"),
        ("text/plain; charset=unicode_escape", b"\\u0041", "\\u0041"), ("text/plain; charset=utf-7", b"+AEE-", "+AEE-"),
        ("text/plain; charset=zlib", b"a", "a"), ("text/plain; charset=idna", b"xn--a", "xn--a"),
        ("text/plain; charset=shift_jis", b"\x83e", "テ"), ("text/plain; charset=utf-16", "ä".encode("utf-16"), "ä"),
    ],
)  # fmt: skip
async def test_a_page_is_decoded_as_it_says_by_encodings_of_text_only(
    home: Site, web: WebTools, kind: str, body: bytes, text: str
) -> None:
    assert (await web.read_url(home.says("/", body, kind=kind)))["text"] == text


async def test_hidden_characters_are_taken_out(home: Site, web: WebTools) -> None:
    hidden = "\u202e\u2066\u200f\u200b\ufeff\u061c\x07\x1b\x9b" + "".join(chr(0xE0000 + ord(one)) for one in "obey")
    for kind in ("text/html; charset=utf-8", "text/plain; charset=utf-8"):
        found = await web.read_url(home.says("/", f"<title>t{hidden}t</title><p>a{hidden}b", kind=kind))
        assert found["text"].endswith("ab")
        assert not set(hidden) & set(found["text"] + found["title"])


@pytest.mark.parametrize(
    ("status", "headers", "raised", "after_s"),
    [
        ("404 Not Found", (), FatalError, None), ("403 Forbidden", (), FatalError, None), ("410 Gone", (), FatalError, None),
        ("304 Not Modified", (), FatalError, None), ("429 Slow", ("Retry-After: 7",), RateLimited, 7.0),
        ("429 Slow", (), RateLimited, None), ("429 Slow", ("Retry-After: inf",), RateLimited, 3600.0),
        ("503 Down", ("Retry-After: 2",), RateLimited, 2.0), ("500 Oops", (), RetryableError, None),
        ("502 Oops", (), RetryableError, None),
    ],
)  # fmt: skip
async def test_each_status_has_its_class(
    home: Site, web: WebTools, status: str, headers: tuple[str, ...], raised: type[Exception], after_s: float | None
) -> None:
    home.says("/html/", "no", status=status, headers=headers)
    for call in (web.read_url(home.url("/html/")), web.web_search("x")):
        with pytest.raises(raised, match=f"HTTP {status[:3]}") as caught:
            await call
        assert type(caught.value) is raised
        assert getattr(caught.value, "retry_after_s", None) == after_s


async def test_nobody_else_is_read(home: Site, web: WebTools) -> None:
    async with site("127.0.0.2") as other:
        for url in (
            other.url(),
            home.leads("/", other.url()),
            "http://169.254.169.254/latest/meta-data/",
            "file:///etc/passwd",
        ):
            with pytest.raises(Blocked):
                await web.read_url(url)
        assert other.accepted == 0


# web_search

RESULTS = """<div class="result results_links web-result"><h2 class="result__title">
<a rel="nofollow" class="result__a" href="//duckduckgo.com/l/?uddg=https%3A%2F%2Fone.example%2Fa%3Fb%3D1%26c%3D2&amp;rut=f00">One
 &amp; <b>only</b></a></h2><a class="result__snippet" href="x">It is <b>the</b>
 first.</a></div>
<div class="result result--ad"><a class="result__a" href="https://duckduckgo.com/y.js?ad_domain=ad.example">Buy</a>
<a class="result__snippet">now</a></div>
<div class="result"><a class="result__a" href="https://two.example/">Two\u202e\U000e0041</a></div>
<div class="result"><a class="result__a" href="//duckduckgo.com/l/?uddg=javascript%3Aalert(1)">Bad</a></div>
<div class="result"><a class="result__a" href="//duckduckgo.com/l/?uddg=file%3A%2F%2F%2Fetc%2Fpasswd">Bad</a></div>
<div class="result"><a class="result__a" href="http://[bad/">Bad</a></div>
<div class="result"><a class="result__a">Bad</a><a class="result__a" href="https://x.example/"></a></div>
<div class="result"><a class="result__a" href="https://three.example/">Three</a><div class="result__snippet">third"""


async def test_results_are_unwrapped_and_cleaned(home: Site, web: WebTools) -> None:
    home.says("/html/", RESULTS)
    found = await web.web_search("a b&c", limit=20)
    # Without a link of its own, a result leads back to the engine.
    assert [one for one in found if one["title"] != "Bad"] == [
        {"title": "One & only", "url": "https://one.example/a?b=1&c=2", "snippet": "It is the first."},
        {"title": "Two", "url": "https://two.example/", "snippet": ""},
        {"title": "Three", "url": "https://three.example/", "snippet": "third"},
    ]
    assert all(one["url"].startswith(("https://", home.url())) for one in found)
    assert home.asked[0].target == "/html/?q=a+b%26c"
    assert len(await web.web_search("x", limit=1)) == 1
    assert len(await web.web_search("x", limit=-5)) == 1


async def test_many_and_long_results_are_cut(home: Site, web: WebTools) -> None:
    long = "y" * 5000
    one = f"<a class=result__a href=https://a.example/>{long}</a><p class=result__snippet>{long}</p>"
    home.says("/html/", f"<a class=result__a href=https://a.example/{long}>too long</a>" + one * 100)
    found = await web.web_search("x", limit=1000)
    assert len(found) == 20
    assert {(len(one["title"]), len(one["snippet"])) for one in found} == {(300, 600)}


@pytest.mark.parametrize(
    "body", ["", "<p>No results.", "<a class='result__a' href='", "<a class=result__snippet>x", "<!--" * 9]
)
async def test_a_page_without_results_gives_none(home: Site, web: WebTools, body: str) -> None:
    home.says("/html/", body)
    assert await web.web_search("x") == []


async def test_a_riddle_in_place_of_results_asks_to_slow_down(home: Site, web: WebTools) -> None:
    home.says("/html/", "are you a robot?", status="202 Accepted")
    with pytest.raises(RateLimited, match="riddle"):
        await web.web_search("x")


async def test_an_empty_query_is_refused(web: WebTools) -> None:
    with pytest.raises(FatalError, match="empty"):
        await web.web_search(" \u200b\n")


async def test_offline_results_depend_on_the_query_alone_and_say_so() -> None:
    with sockets() as seen:
        offline = WebTools(Egress(), "offline")
        first, again = await offline.web_search("Mars  rovers", 3), await offline.web_search("Mars rovers", 3)
        other = await offline.web_search("Venus", 3)
    assert first == again
    assert seen == []
    assert {one["url"] for one in first}.isdisjoint(one["url"] for one in other)
    assert len({one["url"] for one in first}) == 3
    for one in first:
        assert one["offline"] is True
        assert one["url"].startswith("https://example.invalid/")
        assert "Mars rovers" in one["title"]


@pytest.mark.parametrize(
    ("env", "mode"),
    [
        ({}, "offline"), ({"ANTHROPIC_API_KEY": ""}, "offline"), ({"ANTHROPIC_API_KEY": "k"}, "duckduckgo"),
        ({"OPENAI_API_KEY": "k"}, "duckduckgo"), ({"GEMINI_API_KEY": "k"}, "duckduckgo"), ({"GOOGLE_API_KEY": "k"}, "duckduckgo"),
        ({"AWS_ACCESS_KEY_ID": "k"}, "offline"), ({"AWS_ACCESS_KEY_ID": "k", "AWS_REGION": "r"}, "duckduckgo"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1"}, "duckduckgo"), ({"DURABLE_AGENT_WEB_SEARCH": "auto"}, "offline"),
        ({"DURABLE_AGENT_WEB_SEARCH": "offline", "OPENAI_API_KEY": "k"}, "offline"),
        ({"DURABLE_AGENT_WEB_SEARCH": " DuckDuckGo "}, "duckduckgo"),
    ],
)  # fmt: skip
def test_the_environment_decides_where_to_search(env: dict[str, str], mode: str) -> None:
    made = web_tools_from_env(env)
    assert (made.search, made.search_url) == (mode, SEARCH_URL)


async def test_the_environment_names_the_engine_and_the_exceptions(home: Site) -> None:
    home.says("/html/", RESULTS)
    env = {"DURABLE_AGENT_WEB_SEARCH": "duckduckgo", "DURABLE_AGENT_WEB_SEARCH_URL": home.url("/html/?kl=de")}
    with pytest.raises(Blocked):
        await web_tools_from_env(env).web_search("x")
    allowed = web_tools_from_env({**env, "DURABLE_AGENT_EGRESS_ALLOW": f"10.0.0.0/8, {home.authority} ,"})
    assert await allowed.web_search("x")
    assert home.asked[0].target == "/html/?kl=de&q=x"


@pytest.mark.parametrize("env", [{"DURABLE_AGENT_WEB_SEARCH": "bing"}, {"DURABLE_AGENT_EGRESS_ALLOW": "1.2.3"}])
def test_a_setting_that_is_none_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        built_in(env)


# As steps
