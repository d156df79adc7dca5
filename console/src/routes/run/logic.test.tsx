import { describe, expect, it } from "vitest";
import type { Event, Step, StepReason } from "@/api/types";
import { valueOf } from "@/routes/run/answer";
import { amount, limitBody } from "@/routes/run/budget";
import { can } from "@/routes/run/can";
import { idIn } from "@/routes/run/dialogs";
import { bodyOf, faults, jsonFault, madeAgain } from "@/routes/run/edits";
import { grouped } from "@/routes/run/reasons";
import { saying } from "@/routes/run/step/panel";
import { wordsIn } from "@/routes/run/step/value";
import { filtered, told } from "@/routes/run/told";

const event = (type: string, data: Event["data"] = {}, step: string | null = "fetch"): Event => ({ seq: 1, type, run_id: "r", step, at: "2026-01-01T00:00:00Z", data });
const step = (no: number, name: string, depends_on: string[] = [], more: Partial<Step> = {}) => ({ no, name, depends_on, status: "succeeded", spawned_by: null, compensates: null, ...more }) as Step;

describe("events", () => {
  it("are told in a line", () => {
    expect(told(event("step.lease_lost", { worker: "worker-1", why: "session_lost", crashes: 1, of: 3 }))).toBe("of worker-1 · session_lost · 1 of 3 in a row");
    expect(told(event("effect.recorded", { name: "llm", effect: 2, state: "done", usage: { input_tokens: 139, output_tokens: 7, model: "m" }, microusd: 0 }))).toBe("llm #2 · done · m · 139 → 7 tokens");
  });

  it("are filtered by type, by family and by what they say", () => {
    const all = [event("step.claimed", { worker: "worker-2" }), event("step.ready"), event("run.started", {}, null)];
    expect(filtered(all, { type: "step", text: "" })).toHaveLength(2);
    expect(filtered(all, { type: "step.ready", text: "" })).toHaveLength(1);
    expect(filtered(all, { type: "", text: "WORKER-2" })).toHaveLength(1);
    expect(filtered(all, { type: "", text: " " })).toBe(all);
  });
});

describe("a replay", () => {
  const steps = [step(0, "a"), step(1, "b", ["a"]), step(2, "c"), step(3, "d", ["b"])];
  const draft = { from: "b", by: "name" as const, mode: "live" as const, edits: [] };

  it("by name makes what follows, by number all that is higher", () => {
    expect([...madeAgain(draft, steps)].sort()).toEqual(["b", "d"]);
    expect([...madeAgain({ ...draft, by: "number" }, steps)].sort()).toEqual(["b", "c", "d"]);
  });

  it("makes an edited input's step again, and what follows an edited output, but not its step", () => {
    const edits = [{ step: "a", what: "output" as const, text: "1" }];
    expect([...madeAgain({ ...draft, from: "c", edits }, steps)].sort()).toEqual(["b", "c", "d"]);
    expect(madeAgain({ ...draft, from: "c", edits: [{ step: "a", what: "input", text: "1" }] }, steps).has("a")).toBe(true);
  });

  it("asks with the number when it goes by number, and merges edits of one step", () => {
    const edits = [{ step: "a", what: "input" as const, text: "{\"x\": 1}" }, { step: "a", what: "output" as const, text: "null" }];
    expect(bodyOf({ ...draft, by: "number", edits }, steps)).toEqual({ from_step: 1, mode: "live", edits: { a: { input: { x: 1 }, output: null } } });
    expect(bodyOf(draft, steps).from_step).toBe("b");
  });

  it("finds what is no JSON, and what is changed twice", () => {
    expect(jsonFault("{nope")).toMatch(/^Not JSON/);
    expect(jsonFault("  ")).not.toBeNull();
    const twice = { step: "a", what: "input" as const, text: "1" };
    expect([...faults({ ...draft, edits: [twice, twice] }).keys()]).toEqual([1]);
  });
});

describe("what may be done", () => {
  const at = (status: string, steps: string[] = [], agent: string | null = null) => can({ status, agent, steps: steps.map((one) => ({ status: one })) } as never);

  it("follows the status", () => {
    expect(at("running")).toMatchObject({ cancel: true, pause: true, resume: false, redrive: false, replayRecorded: false });
    expect(at("paused")).toMatchObject({ cancel: true, pause: false, resume: true });
    expect(at("compensating")).toMatchObject({ cancel: false, pause: false });
    expect(at("failed", ["dead_letter"])).toMatchObject({ cancel: false, redrive: true, replayRecorded: true });
    expect(at("failed", ["cancelled"]).redrive).toBe(false);
    expect(at("completed", [], "researcher").message).toBe(true);
    expect(at("completed").message).toBe(false);
  });
});

describe("small readings", () => {
  it("take an id out of an address, JSON out of a text, words out of a value", () => {
    const id = "01a1feea-7e3f-7517-869a-9cc3c7d87847";
    expect(idIn(`https://host/runs/${id}?view=graph`)).toBe(id);
    expect(idIn("nothing")).toBeNull();
    expect(valueOf("{\"a\": 1}")).toEqual({ a: 1 });
    expect(valueOf("yes please")).toBe("yes please");
    expect(wordsIn({ model: "m", text: "hello" })).toBe("hello");
    expect(wordsIn({ rows: [] })).toBeNull();
  });

  it("write amounts and limits in the meter's unit", () => {
    expect(amount("microusd", 1_500_000)).toBe("$1.50");
    expect(limitBody("microusd", 1.5)).toEqual({ microusd: 1_500_000 });
    expect(limitBody("tool:web_search", 3)).toEqual({ per_tool: { web_search: 3 } });
    expect(limitBody("tokens", 10)).toEqual({ tokens: 10 });
  });

  it("put what needs a person before what is broken, and what moves last", () => {
    const reason = (code: string) => ({ step: code, reason: code, text: "", facts: {} }) as StepReason;
    expect(grouped(["running", "no_live_worker", "waits_for_approval", "running"].map(reason)).map(({ reason, steps }) => [reason, steps.length])).toEqual([["waits_for_approval", 1], ["no_live_worker", 1], ["running", 2]]);
  });

  it("say only what no event has ended", () => {
    const speech = { "fetch#1": "done", "fetch#2": "still", "other#1": "no" };
    const own = [event("effect.recorded", { effect: 1 })];
    expect(saying({ name: "fetch", status: "running" }, own, speech)).toEqual([["2", "still"]]);
    expect(saying({ name: "fetch", status: "succeeded" }, own, speech)).toEqual([]);
  });
});
