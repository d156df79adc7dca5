import { describe, expect, it } from "vitest";
import type { Event } from "@/api/types";
import { extent, spoken, tracksOf } from "@/routes/run/spans";

let seq = 0;
const T0 = Date.parse("2026-01-01T00:00:00Z");
const event = (type: string, second: number, data: Event["data"] = {}, step: string | null = "a"): Event =>
  ({ seq: ++seq, type, run_id: "r", step, at: new Date(T0 + second * 1000).toISOString(), data });
const claimed = (second: number, worker: string, claim_no: number, attempt = 1) => event("step.claimed", second, { worker, claim_no, attempt });

describe("tracksOf", () => {
  it("shows a killed worker: its attempt torn, a gap, the next attempt by another", () => {
    const track = tracksOf([
      event("step.ready", 0), claimed(1, "worker-1", 1), event("step.lease_lost", 4, { why: "session_lost", worker: "worker-1" }),
      claimed(5, "worker-2", 2), event("step.succeeded", 9),
    ]).get("a")!;
    expect(track.attempts.map(({ worker, how, start, end }) => [worker, how, (start - T0) / 1000, (end! - T0) / 1000])).toEqual([
      ["worker-1", "lease_lost", 1, 4], ["worker-2", "succeeded", 5, 9],
    ]);
    expect(track.gaps.map(({ kind, start, end }) => [kind, (start - T0) / 1000, (end! - T0) / 1000])).toEqual([["queued", 0, 1], ["lost", 4, 5]]);
    expect(track.attempts[0]!.why).toBe("session_lost");
    expect(spoken(track)).toBe("attempt 1 on worker-1: lease lost; attempt 1 on worker-2: succeeded");
  });

  it("keeps the failure of the last attempt when the step becomes a dead letter", () => {
    const track = tracksOf([
      claimed(0, "w", 1), event("step.failed", 1, { failure: "transient", error_type: "RetryableError", message: "no" }),
      event("step.dead_letter", 1, { reason: "attempts_exhausted" }),
    ]).get("a")!;
    expect(track.attempts).toHaveLength(1);
    expect(track.attempts[0]).toMatchObject({ how: "failed", why: "transient RetryableError: no" });
    expect(track.ended).toEqual({ at: T0 + 1000, how: "dead letter" });
    expect(track.gaps.at(-1)!.end).toBe(T0 + 1000);
  });

  it("leaves what goes on open, and ends a wait with its answer", () => {
    const track = tracksOf([claimed(0, "w", 1), event("step.waiting", 1, { kind: "approval" }), event("step.answered", 60), claimed(61, "w", 2)]).get("a")!;
    expect(track.gaps.map(({ kind, what, end }) => [kind, what, (end! - T0) / 1000])).toEqual([["wait", "approval", 60], ["queued", null, 61]]);
    expect(track.attempts.map(({ how, end }) => [how, end === null])).toEqual([["waiting", false], ["running", true]]);
  });

  it("puts calls into the attempt that made them", () => {
    const track = tracksOf([
      claimed(0, "w", 1), event("effect.intended", 1, { effect: 2, name: "llm" }), event("effect.recorded", 3, { effect: 2, name: "llm", state: "done" }),
      event("effect.intended", 4, { effect: 3, name: "llm" }), event("step.lease_lost", 5),
    ]).get("a")!;
    expect(track.attempts[0]!.calls.map(({ no, state, start, end }) => [no, state, (start - T0) / 1000, (end! - T0) / 1000])).toEqual([[2, "done", 1, 3], [3, "begun", 4, 5]]);
  });
});

describe("extent", () => {
  it("reaches to now only for a run that goes on, and is never empty", () => {
    const events = [event("run.created", 0, {}, null), event("run.completed", 5, {}, null)];
    expect(extent(events, null)).toEqual([T0, T0 + 5000]);
    expect(extent(events, T0 + 9000)).toEqual([T0, T0 + 9000]);
    expect(extent([events[0]!], null)).toEqual([T0, T0 + 1]);
  });
});
