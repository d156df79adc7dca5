import type { Worker } from "@/api/types";
import type { Tone } from "@/components/status";

export const LAG_WARN_MS = 100;
// A worker says that it lives every few seconds; somebody should look at one that has missed several beats.
export const LATE_S = 15;

export type WorkerState = "suspected" | "lost" | "late" | "lagging" | "draining" | "active" | "stopped";

/** What each state is called, what it means, and how soon somebody should look. */
export const WORKER: Record<WorkerState, { label: string; tone: Tone; rank: number; why: string }> = {
  suspected: { label: "suspected", tone: "bad", rank: 0, why: "Its connection to the database is gone: its lease was made short, and its steps go to others unless it speaks soon." },
  lost: { label: "lost", tone: "bad", rank: 1, why: "It did not renew its lease: its steps were given to others." },
  late: { label: "late", tone: "wait", rank: 2, why: "It has missed several beats; its lease still holds." },
  lagging: { label: "lagging", tone: "wait", rank: 3, why: "Its event loop is late: something in a step blocks it, and its beats may come too late." },
  draining: { label: "draining", tone: "busy", rank: 4, why: "It takes nothing new and finishes what it has." },
  active: { label: "active", tone: "good", rank: 5, why: "It takes what it offers." },
  stopped: { label: "stopped", tone: "idle", rank: 6, why: "It ended as it was asked to." },
};

/** How a worker stands, `age` seconds after its last beat. */
export function stateOf(worker: Worker, age: number): WorkerState {
  if (worker.state === "stopped" || worker.state === "lost") return worker.state;
  if (worker.suspected_at) return "suspected";
  if (age > LATE_S) return "late";
  if (worker.loop_lag_ms > LAG_WARN_MS) return "lagging";
  return worker.state === "draining" ? "draining" : "active";
}

/** Those that need somebody first; of those that do not, the oldest first, so that they keep their places. */
export function inOrder(workers: readonly Worker[]): Worker[] {
  const rank = (worker: Worker) => WORKER[stateOf(worker, worker.beat_age_s)].rank;
  return [...workers].sort((a, b) => rank(a) - rank(b) || a.worker.localeCompare(b.worker, "en", { numeric: true }) || a.started_at.localeCompare(b.started_at));
}

/** A worker that was lost is news until another of its name lives, or a day has passed. */
export function isOver(worker: Worker, all: readonly Worker[], now = Date.now()): boolean {
  if (worker.state === "stopped") return true;
  if (worker.state !== "lost") return false;
  const back = all.some((one) => one.worker === worker.worker && one.started_at > worker.started_at && one.state !== "lost");
  return back || now - Date.parse(worker.stopped_at ?? worker.beat_at) > 86_400_000;
}
