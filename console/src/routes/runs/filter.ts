/** What is looked for among runs, as it stands in the address and as the API takes it. */
import type { RunFilter } from "@/api/queries";
import type { RunStatus } from "@/api/types";
import { STATUS } from "@/components/status";

export interface Search { status?: string; graph?: string; agent?: string; q?: string; since?: string; until?: string }

export const RUN_STATUSES: readonly RunStatus[] = [
  "pending", "running", "waiting", "waiting_for_approval", "waiting_for_input", "paused", "compensating",
  "completed", "failed", "cancelled", "budget_exceeded",
];

export const PRESETS: Readonly<Record<string, { label: string; seconds: number }>> = {
  "15m": { label: "Last 15 minutes", seconds: 900 },
  "1h": { label: "Last hour", seconds: 3600 },
  "24h": { label: "Last 24 hours", seconds: 86_400 },
  "7d": { label: "Last 7 days", seconds: 604_800 },
};

/** The statuses named, in the order they are shown; what is no status is left out. */
export function statusesOf(search: Search): RunStatus[] {
  const named = new Set(search.status?.split(",").map((one) => one.trim()));
  return RUN_STATUSES.filter((status) => named.has(status));
}

/** The filter as the API takes it; a preset is counted back from `now`. What is no time is left out. */
export function apiFilter(search: Search, now: number): RunFilter {
  const statuses = statusesOf(search);
  return {
    ...(statuses.length ? { status: statuses } : {}),
    ...(search.graph ? { graph: search.graph } : {}),
    ...(search.agent ? { agent: search.agent } : {}),
    ...(search.q?.trim() ? { q: search.q.trim() } : {}),
    ...time("since", search.since, now),
    ...time("until", search.until, now),
  };
}

function time(name: "since" | "until", given: string | undefined, now: number): Partial<Record<"since" | "until", string>> {
  if (!given) return {};
  const preset = PRESETS[given];
  const at = preset ? now - preset.seconds * 1000 : Date.parse(given);
  return Number.isNaN(at) ? {} : { [name]: new Date(at).toISOString() };
}

/** What a menu of statuses is called while some are chosen. */
export function statusLabel(statuses: readonly RunStatus[]): string {
  if (!statuses.length) return "Any status";
  if (statuses.length <= 2) return statuses.map((status) => STATUS[status].label).join(", ");
  return `${statuses.length} statuses`;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The run that a search names by its whole id. */
export function namedRun(q: string | undefined): string | null {
  const text = q?.trim() ?? "";
  return UUID.test(text) ? text.toLowerCase() : null;
}

/** A time of the API as a field for local dates and times has it; empty when there is none. */
export function localTime(iso: string | undefined): string {
  const at = iso ? new Date(iso) : null;
  if (!at || Number.isNaN(at.getTime())) return "";
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
