import { describe, expect, it } from "vitest";
import type { Gate } from "@/api/types";
import { gatesInOrder, gateState, modelBody, modelDraft, modelPath, rate, unset } from "@/routes/models/read";

const gate = (more: Partial<Gate>): Gate => ({ name: "provider:a", requests_per_minute: null, tokens_per_minute: null, concurrency: null, held_until: null, state: "closed", failures: 0, opened_at: null, retry_at: null, error: null, in_use: 0, ...more });
const now = Date.parse("2026-01-01T00:00:00Z");

describe("a price", () => {
  it("has at least cents and all digits that it has", () => {
    expect([rate("3"), rate("0.075"), rate("0.250"), rate("15"), rate(undefined), rate("")]).toEqual(["$3.00", "$0.075", "$0.25", "$15.00", null, null]);
  });

  it("is sent as it was typed, without what is empty", () => {
    const draft = modelDraft({ provider: "a", name: "b", price: { input_usd: "0.1", output_usd: "0.30" }, window_tokens: 8000 });
    expect(modelBody(draft)).toEqual({ price: { input_usd: "0.1", output_usd: "0.30" }, window_tokens: 8000 });
    expect(modelBody(modelDraft())).toEqual({ price: null, window_tokens: null });
  });
});

it("keeps the slashes of a model's name and escapes the rest", () => {
  expect(modelPath("open router", "meta/llama 3?")).toBe("/models/open%20router/meta/llama%203%3F");
});

it("names the models of agents that nothing is set of", () => {
  expect(unset(["default", "a:x", "a:y", "a:y"], [{ provider: "a", name: "x" }])).toEqual(["a:y"]);
});

describe("a gate", () => {
  it("is as its breaker and its hold say", () => {
    expect(gateState(gate({}), now).label).toBe("passing");
    expect(gateState(gate({ held_until: "2026-01-01T00:00:05Z" }), now)).toMatchObject({ label: "held", until: "2026-01-01T00:00:05Z" });
    expect(gateState(gate({ held_until: "2025-12-31T23:59:59Z" }), now).label).toBe("passing");
    expect(gateState(gate({ state: "open", retry_at: "t" }), now)).toMatchObject({ label: "shut", until: "t" });
    expect(gateState(gate({ state: "half_open" }), now).tone).toBe("wait");
  });

  it("that lets nothing through comes first", () => {
    const all = [gate({ name: "a" }), gate({ name: "c", state: "half_open" }), gate({ name: "b", state: "open" })];
    expect(gatesInOrder(all, now).map((one) => one.name)).toEqual(["b", "c", "a"]);
  });
});
