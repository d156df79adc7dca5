import { cleanup, render, screen } from "@testing-library/react";
import { afterEach, describe, expect, it } from "vitest";
import type { Worker } from "@/api/types";
import { Bar, fullness, share } from "@/routes/workers/bar";
import { WorkerCard } from "@/routes/workers/card";
import { inOrder, isOver, stateOf } from "@/routes/workers/order";

afterEach(cleanup);
const worker = (more: Partial<Worker>): Worker => ({
  session: "s", worker: "w", state: "active", running: 0, concurrency: 10, beat_at: "2026-01-01T00:00:00Z", lease_until: "", started_at: "2026-01-01T00:00:00Z",
  stopped_at: null, suspected_at: null, loop_lag_ms: 0, queues: ["default"], offers: ["echo"], host: "h", os_pid: 1, version: "0.1.0", beat_age_s: 1, ...more,
});

describe("a worker", () => {
  it("is as its worst sign says", () => {
    expect(stateOf(worker({}), 1)).toBe("active");
    expect(stateOf(worker({ loop_lag_ms: 100 }), 1)).toBe("active");
    expect(stateOf(worker({ loop_lag_ms: 101 }), 1)).toBe("lagging");
    expect(stateOf(worker({ loop_lag_ms: 500 }), 16)).toBe("late");
    expect(stateOf(worker({ suspected_at: "2026-01-01T00:00:00Z" }), 16)).toBe("suspected");
    expect(stateOf(worker({ state: "draining" }), 1)).toBe("draining");
    expect(stateOf(worker({ state: "stopped", suspected_at: "2026-01-01T00:00:00Z" }), 999)).toBe("stopped");
  });

  it("that needs somebody comes first", () => {
    const all = [worker({ worker: "w10" }), worker({ worker: "w2" }), worker({ worker: "d", state: "draining" }), worker({ worker: "l", state: "lost" }), worker({ worker: "s", suspected_at: "x" })];
    expect(inOrder(all).map((one) => one.worker)).toEqual(["s", "l", "d", "w2", "w10"]);
  });

  it("that was lost is news until it is back or a day has passed", () => {
    const lost = worker({ state: "lost", stopped_at: "2026-01-01T00:00:00Z" });
    const soon = Date.parse("2026-01-01T01:00:00Z");
    expect(isOver(lost, [lost], soon)).toBe(false);
    expect(isOver(lost, [lost, worker({ started_at: "2026-01-01T00:30:00Z" })], soon)).toBe(true);
    expect(isOver(lost, [lost, worker({ worker: "other", started_at: "2026-01-01T00:30:00Z" })], soon)).toBe(false);
    expect(isOver(lost, [lost], soon + 86_400_000)).toBe(true);
    expect(isOver(worker({ state: "stopped" }), [], soon)).toBe(true);
  });

  it("says what is wrong with it, and why", () => {
    render(<WorkerCard worker={worker({ loop_lag_ms: 450 })} readAt={Date.now()} />);
    expect(screen.getByText("lagging")).toBeTruthy();
    expect(screen.getByText("450 ms")).toBeTruthy();
    expect(screen.getByText(/blocks it/)).toBeTruthy();
  });
});

describe("a bar", () => {
  it("is never more than full and never less than empty", () => {
    expect([share(5, 10), share(20, 10), share(-1, 10), share(0, 0), share(1, 0)]).toEqual([0.5, 1, 0, 0, 1]);
    expect([fullness(7, 10), fullness(8, 10), fullness(10, 10)]).toEqual(["accent", "wait", "bad"]);
  });

  it("says its figures", () => {
    render(<Bar label="Tokens" text="12 of 10" value={12} cap={10} />);
    const meter = screen.getByRole("meter", { name: "Tokens" });
    expect([meter.getAttribute("aria-valuenow"), meter.getAttribute("aria-valuetext")]).toEqual(["10", "12 of 10"]);
  });
});
