import { describe, expect, it } from "vitest";
import type { Event, Run } from "@/api/types";
import { applyEvents, bounded, KEPT, MOST } from "@/live/apply";

const step = (name: string, status: string) => ({ name, status, worker: null, started_at: null, finished_at: null, attempt: 0, claim_no: 0 });
const run = (steps: ReturnType<typeof step>[], last_seq = 2) =>
  ({ id: "r", status: "pending", last_seq, started_at: null, finished_at: null, steps }) as unknown as Run;
const event = (seq: number, type: string, of: string | null = null, data: object = {}): Event =>
  ({ seq, type, run_id: "r", step: of, at: `2026-01-01T00:00:0${seq % 10}Z`, data }) as unknown as Event;

describe("applyEvents", () => {
  it("moves the run and its steps on", () => {
    const after = applyEvents(run([step("a", "ready"), step("b", "pending")]), [
      event(3, "run.started"),
      event(4, "step.claimed", "a", { worker: "w1", attempt: 2, claim_no: 3 }),
      event(5, "step.succeeded", "a"),
      event(6, "step.ready", "b"),
    ]);
    expect(after.status).toBe("running");
    expect(after.last_seq).toBe(6);
    expect(after.steps[0]).toMatchObject({ status: "succeeded", worker: "w1", attempt: 2, claim_no: 3, finished_at: "2026-01-01T00:00:05Z" });
    expect(after.steps[1]?.status).toBe("ready");
  });

  it("takes no event in twice", () => {
    const before = run([step("a", "succeeded")], 9);
    expect(applyEvents(before, [event(8, "step.claimed", "a"), event(9, "run.cancelled")])).toBe(before);
  });

  it("puts a step whose worker died back, and leaves the others the same objects", () => {
    const before = run([step("a", "running"), step("b", "running")]);
    const after = applyEvents(before, [event(3, "step.lease_lost", "a")]);
    expect(after.steps[0]?.status).toBe("ready");
    expect(after.steps[1]).toBe(before.steps[1]);
  });

  it("ends the run", () => {
    expect(applyEvents(run([]), [event(3, "run.completed")])).toMatchObject({ status: "completed", finished_at: "2026-01-01T00:00:03Z" });
  });
});

describe("bounded", () => {
  const said = (many: number, from = 1) => Array.from({ length: many }, (_, no) => event(from + no, "step.emitted", "a"));

  it("keeps all while they are few", () => {
    const events = said(MOST);
    expect(bounded(events)).toBe(events);
  });

  it("lets the oldest go that move nothing, and keeps what the timeline is drawn from", () => {
    const kept = bounded([event(1, "run.started"), event(2, "step.claimed", "a"), ...said(MOST, 3)]);
    expect(kept).toHaveLength(KEPT);
    expect(kept.slice(0, 2).map(({ type }) => type)).toEqual(["run.started", "step.claimed"]);
    expect(kept[2]!.seq).toBe(MOST - KEPT + 5);
    expect(kept.at(-1)!.seq).toBe(MOST + 2);
  });

  it("keeps no more than so many of any kind", () => {
    expect(bounded(Array.from({ length: MOST + 5 }, (_, no) => event(no + 1, "step.claimed", "a"))).map(({ seq }) => seq)[0]).toBe(6);
  });
});
