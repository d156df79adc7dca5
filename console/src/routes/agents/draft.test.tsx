import { describe, expect, it } from "vitest";
import type { Agent } from "@/api/types";
import { bodyOf, draftOf, newLimit } from "@/routes/agents/draft";
import { matches } from "@/routes/agents/list";
import { meterName, meterValue, toMeter, windowText } from "@/routes/agents/meters";
import { offered } from "@/routes/agents/picker";

const agent = {
  id: "1", name: "clerk", version: 3, created_at: "", updated_at: "", model: "anthropic:claude-sonnet-4-5", system: "Be brief.",
  tools: ["calculator", "stripe_refund"], tool_servers: ["depot"], approve: ["stripe_refund", "depot.refund"], max_steps: 20, temperature: 0,
  result_chars: 500, deadline_s: 12.5, concurrency: 4,
  budget: [{ meter: "tokens", cap: 1000, on_limit: "pause" }, { meter: "microusd", cap: 2_500_000, on_limit: "pause" }, { meter: "tool:stripe_refund", cap: 2, on_limit: "pause" }],
  budgets: [
    { meter: "microusd", window_s: 86_400, cap: 20_000_000, spent: 5, reserved: 1, on_limit: "fail", due_at: null },
    { meter: "tool:stripe_refund", window_s: 0, cap: 9, spent: 0, reserved: 0, on_limit: "pause", due_at: null },
  ],
} as unknown as Agent;

describe("an agent's form", () => {
  it("sends back all that it was given", () => {
    expect(bodyOf(draftOf(agent))).toEqual({
      name: "clerk", model: "anthropic:claude-sonnet-4-5", system: "Be brief.", tools: ["calculator", "stripe_refund"], tool_servers: ["depot"],
      approve: ["stripe_refund", "depot.refund"], max_steps: 20, temperature: 0, result_chars: 500, deadline_s: 12.5, concurrency: 4,
      budget: { tokens: 1000, microusd: 2_500_000, per_tool: { stripe_refund: 2 }, on_limit: "pause" },
      budgets: [
        { meter: "microusd", window_s: 86_400, cap: 20_000_000, on_limit: "fail" },
        { meter: "tool:stripe_refund", window_s: 0, cap: 9, on_limit: "pause" },
      ],
    });
  });

  it("sends nothing of what is empty", () => {
    expect(bodyOf({ ...draftOf(), name: " a ", model: " " })).toEqual({ name: "a", model: "default", tools: [], tool_servers: [], approve: [], budgets: [] });
  });

  it("asks no approval for what it may not call", () => {
    const draft = { ...draftOf(agent), tools: ["calculator"], tool_servers: [] };
    expect(bodyOf(draft).approve).toEqual([]);
  });

  it("counts dollars in micro-dollars and leaves what is no number to the server", () => {
    const limits = [{ ...newLimit, meter: "microusd", cap: "0.1" }, { ...newLimit, cap: "many" }, { ...newLimit, meter: "tool:", tool: " echo ", cap: "3" }];
    expect((bodyOf({ ...draftOf(), name: "a", limits }).budgets as { meter: string; cap: unknown }[]).map(({ meter, cap }) => [meter, cap])).toEqual([
      ["microusd", 100_000], ["tokens", "many"], ["tool:echo", 3],
    ]);
  });
});

describe("meters", () => {
  it("are named and counted in what they measure", () => {
    expect([meterName("microusd"), meterName("tool:echo"), meterName("tools"), meterName("tokens")]).toEqual(["spend", "calls of echo", "tool calls", "tokens"]);
    expect([meterValue("microusd", 20_000_000), meterValue("wall_clock_s", 600), meterValue("tokens", 1234)]).toEqual(["$20.00", "10 min", "1,234"]);
    expect([windowText(0), windowText(86_400), windowText(5_400)]).toEqual(["in all", "in any day", "in any 1 h 30 min"]);
    expect(toMeter("tokens", " ")).toBeNaN();
  });
});

it("finds agents by name, model, tool and server", () => {
  expect(["CLERK", "sonnet", "refund", "depot", " "].map((q) => matches(agent, q))).toEqual([true, true, true, true, true]);
  expect(matches(agent, "nothing")).toBe(false);
});

it("offers what a model may call of living workers, once", () => {
  const worker = (state: string, offers: string[]) => ({ state, offers }) as never;
  expect(offered([worker("active", ["echo", "sleep", "agent", "triage.when.a.b"]), worker("draining", ["echo", "calculator"]), worker("stopped", ["old"])])).toEqual(["calculator", "echo"]);
});
