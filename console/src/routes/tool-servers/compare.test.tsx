import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { cleanup, render, screen } from "@testing-library/react";
import { afterEach, describe, expect, it } from "vitest";
import type { ServerTool, ToolServer } from "@/api/types";
import { changedParts, changesOf, ordered, sideBySide } from "@/routes/tool-servers/compare";
import { Drift, summary } from "@/routes/tool-servers/drift";
import { serverBody, serverDraft } from "@/routes/tool-servers/form";
import { inOrder, placeOf } from "@/routes/tool-servers/states";

afterEach(cleanup);
const tool = (name: string, more: Partial<ServerTool> = {}): ServerTool => ({ name, description: "d", effect: "safe", parameters: {}, digest: "", ...more });

describe("what became of a list of tools", () => {
  it("is what is new, what changed, what is gone, in that order", () => {
    const before = [tool("a"), tool("gone"), tool("c")];
    const after = [tool("c", { effect: "manual" }), tool("a"), tool("b")];
    expect(changesOf(before, after).map((one) => [one.name, one.kind])).toEqual([["b", "added"], ["c", "changed"], ["gone", "removed"]]);
  });

  it("is nothing when only the digest or the order of names differs", () => {
    const before = tool("a", { digest: "1", parameters: { x: 1, y: { p: 1, q: 2 } } });
    const after = tool("a", { digest: "2", parameters: { y: { q: 2, p: 1 }, x: 1 } });
    expect(changesOf([before], [after])).toEqual([]);
  });

  it("sees the order of a list, which means something", () => {
    expect(changesOf([tool("a", { parameters: { enum: [1, 2] } })], [tool("a", { parameters: { enum: [2, 1] } })])).toHaveLength(1);
  });

  it("is said in a sentence", () => {
    expect(summary(changesOf([tool("a")], [tool("b"), tool("c")]))).toBe("2 new, 1 gone.");
    expect(summary([])).toContain("the same");
  });
});

describe("two texts beside each other", () => {
  const sides = (a: string, b: string) => sideBySide(a, b).map((line) => `${line.left ?? ""}|${line.right ?? ""}|${line.kind}`);

  it("pairs what changed and keeps what did not", () => {
    expect(sides("a\nb\nc", "a\nB\nc")).toEqual(["a|a|same", "b|B|changed", "c|c|same"]);
    expect(sides("a\nc", "a\nb\nc")).toEqual(["a|a|same", "|b|changed", "c|c|same"]);
    expect(sides("x\nk\ny", "k\nz")).toEqual(["x||changed", "k|k|same", "y|z|changed"]);
  });

  it("gives back both texts, whatever they are", () => {
    const texts = ["", "a", "a\na\na", "b\na\nc\na", "c\nb\na\nc\nb"];
    for (const a of texts) {
      for (const b of texts) {
        const lines = sideBySide(a, b);
        expect(lines.flatMap((line) => line.left ?? []).join("\n")).toBe(a);
        expect(lines.flatMap((line) => line.right ?? []).join("\n")).toBe(b);
        expect(lines.filter((line) => line.kind === "same").every((line) => line.left === line.right)).toBe(true);
      }
    }
  });

  it("leaves out what is far from a change, and says how much", () => {
    const many = Array.from({ length: 20 }, (_, index) => `line ${index}`);
    const parts = changedParts(sideBySide(many.join("\n"), many.with(10, "other").join("\n")));
    expect(parts.map((line) => (line.kind === "gap" ? `gap ${line.left}` : line.left))).toEqual(["gap 8", "line 8", "line 9", "line 10", "line 11", "line 12", "gap 7"]);
    expect(changedParts(sideBySide("a\nb", "a\nb")).map((line) => line.kind)).toEqual(["gap"]);
  });

  it("does not hang on what is huge", () => {
    const text = (mark: string) => Array.from({ length: 5_000 }, (_, index) => `${mark}${index}`).join("\n");
    expect(sideBySide(text("a"), text("b"))).toHaveLength(5_000);
  });
});

it("writes JSON with its names in order", () => {
  expect(ordered({ b: 1, a: [{ d: 1, c: 2 }] })).toBe('{\n  "a": [\n    {\n      "c": 2,\n      "d": 1\n    }\n  ],\n  "b": 1\n}');
});

it("shows what a server says as text, with what is hidden in it", () => {
  const server = { id: "1", name: "depot", state: "quarantined", digest: "1", seen_digest: "2", tools: [tool("a")], seen: [tool("a", { description: "<img src=x onerror=alert(1)> \u202ehidden" })] } as unknown as ToolServer;
  const { container } = render(<QueryClientProvider client={new QueryClient()}><Drift server={server} /></QueryClientProvider>);
  expect(container.querySelector("img")).toBeNull();
  expect(container.textContent).toContain("<img src=x onerror=alert(1)>");
  expect(container.textContent).toContain("U+202E");
  expect(screen.getByText("1 changed. Until somebody", { exact: false })).toBeTruthy();
});

describe("a tool server", () => {
  it("that needs somebody comes first", () => {
    const server = (name: string, state: string) => ({ name, state }) as ToolServer;
    expect(inOrder([server("a", "ready"), server("d", "new"), server("b", "unreachable"), server("c", "quarantined")]).map((one) => one.name)).toEqual(["c", "b", "d", "a"]);
  });

  it("is where its operator wrote", () => {
    expect(placeOf({ url: null, command: ["/opt/a b", "--x"] } as ToolServer)).toBe('"/opt/a b" --x');
    expect(placeOf({ url: "https://a", command: null } as ToolServer)).toBe("https://a");
  });

  it("is sent with one place, and a token only if one was typed", () => {
    const draft = { ...serverDraft(), name: " depot ", url: " https://a/mcp " };
    expect(serverBody(draft)).toEqual({ name: "depot", url: "https://a/mcp" });
    expect(serverBody({ ...draft, token: "t" })).toEqual({ name: "depot", url: "https://a/mcp", token: "t" });
    expect(serverBody({ ...draft, token: "t", kind: "command", command: "/opt/a b\n\n--x\n" })).toEqual({ name: "depot", command: ["/opt/a b", "--x"] });
  });
});
