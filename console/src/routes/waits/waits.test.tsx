import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { cleanup, fireEvent, render, screen, waitFor } from "@testing-library/react";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { Wait } from "@/api/types";
import { AnswerForm } from "@/routes/waits/answers";
import { asked, canonical, choicesOf, winnerOf } from "@/routes/waits/asked";
import type { Settled } from "@/routes/waits/card";
import { merged } from "@/routes/waits/index";

const wait = (more: Partial<Wait> = {}): Wait => ({
  id: "w1", run_id: "r1", step: "pay", kind: "approval", name: "wire", state: "open", expires_at: null, opened_at: "2026-01-01T00:00:00Z", answered_at: null,
  consumed_at: null, answered_by: null, request: { prompt: "Pay?", tool: "wire", arguments: { b: 1, a: 2 } }, request_sha256: "ab", answer: null, goal: null, ...more,
});

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

function answering(status: number, body: unknown) {
  const asked: { url: string; body: unknown }[] = [];
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    asked.push({ url, body: JSON.parse(String(init.body)) });
    return Promise.resolve(new Response(JSON.stringify(body), { status }));
  });
  return asked;
}

function form(one: Wait) {
  const settled: Settled[] = [];
  render(<QueryClientProvider client={new QueryClient()}><AnswerForm wait={one} onSettled={(now) => settled.push(now)} /></QueryClientProvider>);
  return settled;
}

describe("what is asked", () => {
  it("is the prompt, else what it is about", () => {
    expect(asked(wait())).toBe("Pay?");
    expect(asked(wait({ request: { tool: "wire" } }))).toBe("May wire be called?");
    expect(asked(wait({ kind: "unknown_effect", request: { message: "worker-1 was lost" } }))).toBe("worker-1 was lost");
  });
  it("is written the same however its names are ordered", () => {
    expect(canonical({ b: [{ d: 1, c: "x" }], a: null, B: 1 })).toBe('{\n  "B": 1,\n  "a": null,\n  "b": [\n    {\n      "c": "x",\n      "d": 1\n    }\n  ]\n}');
    expect(canonical(JSON.parse('{"__proto__": {"x": 1}}'))).toContain('"__proto__"');
  });
  it("offers choices only when there are few and simple ones", () => {
    expect(choicesOf({ enum: ["eu", 7] })).toEqual(["eu", 7]);
    expect(choicesOf({ type: "boolean" })).toEqual([true, false]);
    expect(choicesOf({ enum: [{}] })).toBeNull();
    expect(choicesOf({ type: "string" })).toBeNull();
  });
});

describe("an answer", () => {
  it("carries its reason", async () => {
    const sent = answering(202, { decision: "rejected", by: "key:ann" });
    const settled = form(wait());
    fireEvent.change(screen.getByLabelText("Reason (optional)"), { target: { value: " too much " } });
    fireEvent.click(screen.getByRole("button", { name: "Reject" }));
    await waitFor(() => expect(settled).toHaveLength(1));
    expect(sent).toEqual([{ url: "/waits/w1/reject", body: { reason: "too much" } }]);
    expect(settled[0]).toMatchObject({ outcome: "here", winner: { decision: "rejected", reason: "too much" } });
  });

  it("that came too late says who was faster, and is no error", async () => {
    answering(409, { title: "Conflict", detail: "wait w1 is closed", winner: { decision: "approved", by: "key:bob", reason: null } });
    const settled = form(wait());
    fireEvent.click(screen.getByRole("button", { name: "Approve" }));
    await waitFor(() => expect(settled).toHaveLength(1));
    expect(settled[0]).toMatchObject({ outcome: "elsewhere", winner: { decision: "approved", by: "key:bob" } });
    expect(screen.queryByRole("alert")).toBeNull();
  });

  it("that is refused otherwise stays open and says why", async () => {
    answering(403, { title: "Forbidden", detail: "ann asked for this approval and may not give it" });
    const settled = form(wait());
    fireEvent.click(screen.getByRole("button", { name: "Approve" }));
    expect((await screen.findByRole("alert")).textContent).toContain("may not give it");
    expect(settled).toHaveLength(0);
  });

  it("to a question fits its schema before it is sent", async () => {
    const sent = answering(202, { decision: "responded", by: "ann" });
    form(wait({ kind: "input", request: { prompt: "?", schema: { type: "object", required: ["days"], properties: { days: { type: "integer" } } } } }));
    fireEvent.click(screen.getByRole("button", { name: "Answer" }));
    expect(screen.getByText("This is needed.")).toBeTruthy();
    expect(sent).toHaveLength(0);
    fireEvent.change(screen.getByLabelText("days"), { target: { value: "3" } });
    fireEvent.click(screen.getByRole("button", { name: "Answer" }));
    await waitFor(() => expect(sent).toEqual([{ url: "/waits/w1/respond", body: { value: { days: 3 } } }]));
  });

  it("about an unknown effect gives a result only when it happened", async () => {
    const sent = answering(202, { decision: "happened", by: "ann" });
    form(wait({ kind: "unknown_effect", request: { tool: "wire", key: "k" } }));
    expect(screen.getByRole<HTMLButtonElement>("button", { name: "Settle" }).disabled).toBe(true);
    fireEvent.click(screen.getByLabelText(/It happened/));
    fireEvent.change(screen.getByLabelText("Result (optional)"), { target: { value: "{" } });
    fireEvent.click(screen.getByRole("button", { name: "Settle" }));
    expect(screen.getByText("This is no JSON.")).toBeTruthy();
    fireEvent.change(screen.getByLabelText("Result (optional)"), { target: { value: '{"id": 7}' } });
    fireEvent.click(screen.getByRole("button", { name: "Settle" }));
    await waitFor(() => expect(sent).toEqual([{ url: "/waits/w1/settle", body: { outcome: "happened", result: { id: 7 } } }]));
  });
});

describe("the list", () => {
  it("keeps a card that somebody works at when another is faster", () => {
    const a = wait({ id: "a" });
    const b = wait({ id: "b" });
    const settled = new Map<string, Settled>([["b", { wait: b, outcome: "here", winner: null }]]);
    expect(merged([wait({ id: "c" })], settled, new Map([["a", a], ["b", b], ["c", wait({ id: "c" })]])).map((one) => [one.wait.id, "outcome" in one ? one.outcome : "open"]))
      .toEqual([["a", "elsewhere"], ["b", "here"], ["c", "open"]]);
  });
  it("reads who was faster only from what says so", () => {
    expect(winnerOf({ winner: { decision: "approved", by: 7 } })).toEqual({ decision: "approved", by: null, reason: null });
    expect(winnerOf({})).toBeNull();
  });
});
