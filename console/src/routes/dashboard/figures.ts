/** What the dashboard says, worked out from what the API answers. */
import type { Health, RunStatus, Stats } from "@/api/types";

export const WINDOWS: Readonly<Record<string, { label: string; seconds: number }>> = {
  "15m": { label: "15 min", seconds: 900 },
  "1h": { label: "1 h", seconds: 3600 },
  "24h": { label: "24 h", seconds: 86_400 },
};

export function windowOf(given: unknown): string {
  return typeof given === "string" && WINDOWS[given] ? given : "1h";
}

export const total = (values: readonly number[]): number => values.reduce((sum, one) => sum + one, 0);

/** Seconds since 1970 at which each slice begins; the last one ends at the time of the figures. */
export function sliceTimes(stats: Stats): number[] {
  const slices = stats.series.started.length;
  const end = Date.parse(stats.at) / 1000;
  return Array.from({ length: slices }, (_, index) => end - (slices - index) * stats.slice_s);
}

export interface Group { label: string; statuses: RunStatus[]; tone: "busy" | "wait" | "good" | "bad" | "idle" }

/** The statuses as one asks about them: what goes on, what waits, how it ended. */
export const GROUPS: readonly Group[] = [
  { label: "Running", statuses: ["pending", "running", "compensating"], tone: "busy" },
  { label: "Needs a person", statuses: ["waiting_for_approval", "waiting_for_input"], tone: "wait" },
  { label: "Waiting", statuses: ["waiting", "paused"], tone: "idle" },
  { label: "Completed", statuses: ["completed"], tone: "good" },
  { label: "Failed", statuses: ["failed", "budget_exceeded"], tone: "bad" },
  { label: "Cancelled", statuses: ["cancelled"], tone: "idle" },
];

export function inGroup(group: Group, by: Stats["runs_by_status"]): number {
  return total(group.statuses.map((status) => by[status] ?? 0));
}

/** What /healthz says is stuck, in words; it says so as texts, or as objects with one. */
export function stuckTexts(health: Health | undefined): string[] {
  const stuck = (health?.stuck ?? []) as readonly unknown[];
  return stuck.map((one) => (typeof one === "string" ? one : String((one as { text?: unknown }).text ?? JSON.stringify(one))));
}
