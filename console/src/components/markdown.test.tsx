import { cleanup, render } from "@testing-library/react";
import { afterEach, describe, expect, it } from "vitest";
import SafeMarkdown, { safeAddress } from "@/components/markdown";

afterEach(cleanup);
const shown = (text: string) => render(<SafeMarkdown text={text} />).container;

describe("markdown of a model", () => {
  it("keeps words, lists and code", () => {
    const page = shown("# Title\n\n- one\n- **two**\n\n`code`");
    expect(page.querySelectorAll("li")).toHaveLength(2);
    expect(page.querySelector("strong")!.textContent).toBe("two");
    expect(page.querySelector("h1")).toBeNull();
    expect(page.textContent).toContain("Title");
  });

  it.each([
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "<iframe src=//x></iframe>", "<svg onload=alert(1)>", "![x](http://x/y.png)",
    "![x][y]\n\n[y]: http://x/y.png", "<style>*{}</style>", "<form action=//x><input>", "<a href=javascript:alert(1)>x</a>", "<math><mi xlink:href=javascript:alert(1)>",
  ])("makes no element of %s", (text) => {
    const page = shown(`before\n\n${text}\n\nafter`);
    expect(page.querySelector("img, script, iframe, svg, style, form, input, math, object, embed, link, [onerror], [onload]")).toBeNull();
    expect(page.querySelector("a")).toBeNull();
    expect(page.textContent).toContain("before");
  });

  it.each(["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", "/runs", "//evil.example", "file:///etc/passwd", "java\nscript:alert(1)", "&#106;avascript:alert(1)"])("links nowhere for %s", (address) => {
    expect(shown(`[x](<${address}>)`).querySelector("a")).toBeNull();
  });

  it("links to the web in a new tab, without a referrer, and says where to", () => {
    const link = shown("[bank](https://evil.example/x)").querySelector("a")!;
    expect(link.getAttribute("href")).toBe("https://evil.example/x");
    expect(link.getAttribute("rel")).toBe("noopener noreferrer nofollow");
    expect(link.getAttribute("target")).toBe("_blank");
    expect(link.textContent).toContain("evil.example");
  });

  it("spells out what cannot be seen", () => {
    expect(shown("a\u202eb").textContent).toBe("a⟨U+202E⟩b");
  });
});

it("takes web addresses only", () => {
  expect(safeAddress(" https://example.org/a ")).toBe("https://example.org/a");
  expect(safeAddress("https://")).toBeNull();
  expect(safeAddress(undefined)).toBeNull();
});
