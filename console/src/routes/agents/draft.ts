/** An agent as its form holds it, and as the API takes it. Nothing that the API knows of an agent gets lost on the way. */
import type { Agent, Limit } from "@/api/types";
import { fromMeter, toMeter } from "@/routes/agents/meters";

export interface LimitDraft {
  meter: string;
  tool: string;
  cap: string;
  window_s: number;
  on_limit: "pause" | "fail";
}

const NUMBERS = ["max_steps", "max_tokens", "temperature", "concurrency", "result_chars", "deadline_s"] as const;
const RUN_METERS = ["tokens", "tools", "microusd", "wall_clock_s"] as const;
export type NumberName = (typeof NUMBERS)[number];
export type RunMeter = (typeof RUN_METERS)[number];

export interface Draft {
  name: string;
  model: string;
  system: string;
  tools: string[];
  approve: string[];
  tool_servers: string[];
  numbers: Record<NumberName, string>;
  /** What each run may spend; empty: no limit. */
  run: Record<RunMeter, string>;
  perTool: Record<string, number>;
  onRunLimit: "pause" | "fail";
  limits: LimitDraft[];
}

const text = (value: unknown) => (value === null || value === undefined ? "" : String(value));
const kind = (value: string | null | undefined, other: "pause" | "fail"): "pause" | "fail" => (value === "pause" || value === "fail" ? value : other);

export function draftOf(agent?: Agent): Draft {
  const each = new Map((agent?.budget ?? []).map((one) => [one.meter, one]));
  return {
    name: agent?.name ?? "",
    model: agent?.model ?? "default",
    system: agent?.system ?? "",
    tools: [...(agent?.tools ?? [])],
    approve: [...(agent?.approve ?? [])],
    tool_servers: [...(agent?.tool_servers ?? [])],
    numbers: Object.fromEntries(NUMBERS.map((name) => [name, text(agent?.[name])])) as Draft["numbers"],
    run: Object.fromEntries(RUN_METERS.map((meter) => [meter, each.has(meter) ? fromMeter(meter, each.get(meter)!.cap) : ""])) as Draft["run"],
    perTool: Object.fromEntries((agent?.budget ?? []).filter((one) => one.meter.startsWith("tool:")).map((one) => [one.meter.slice(5), one.cap])),
    onRunLimit: kind(agent?.budget?.[0]?.on_limit, "fail"),
    limits: (agent?.budgets ?? []).map(limitDraft),
  };
}

function limitDraft(limit: Limit): LimitDraft {
  const ofTool = limit.meter.startsWith("tool:");
  return {
    meter: ofTool ? "tool:" : limit.meter, tool: ofTool ? limit.meter.slice(5) : "", cap: fromMeter(limit.meter, limit.cap),
    window_s: limit.window_s, on_limit: kind(limit.on_limit, "pause"),
  };
}

export const newLimit: LimitDraft = { meter: "tokens", tool: "", cap: "", window_s: 86_400, on_limit: "pause" };

/** What the API is asked; a number that is none stays the text it is, so that the API names the field. */
export function bodyOf(draft: Draft): Record<string, unknown> {
  const number = (typed: string) => (Number.isFinite(Number(typed)) ? Number(typed) : typed);
  const numbers = Object.fromEntries(NUMBERS.filter((name) => draft.numbers[name].trim()).map((name) => [name, number(draft.numbers[name])]));
  const budget: Record<string, unknown> = {};
  for (const meter of RUN_METERS) {
    if (draft.run[meter].trim()) budget[meter] = numeric(meter, draft.run[meter]);
  }
  if (Object.keys(draft.perTool).length) budget.per_tool = draft.perTool;
  const callable = new Set(draft.tools);
  return {
    name: draft.name.trim(),
    model: draft.model.trim() || "default",
    ...(draft.system.trim() ? { system: draft.system } : {}),
    tools: draft.tools,
    tool_servers: draft.tool_servers,
    // What it may not call needs nobody's approval.
    approve: draft.approve.filter((name) => callable.has(name) || draft.tool_servers.some((server) => name.startsWith(`${server}.`))),
    ...numbers,
    ...(Object.keys(budget).length ? { budget: { ...budget, on_limit: draft.onRunLimit } } : {}),
    budgets: draft.limits.map((one) => {
      const meter = one.meter === "tool:" ? `tool:${one.tool.trim()}` : one.meter;
      return { meter, cap: numeric(meter, one.cap), window_s: one.window_s, on_limit: one.on_limit };
    }),
  };
}

function numeric(meter: string, typed: string): number | string {
  const value = toMeter(meter, typed);
  return Number.isNaN(value) ? typed : value;
}
