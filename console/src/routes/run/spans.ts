/** A run's events as spans of time: what the timeline draws and the table of attempts lists. */
import type { Event } from "@/api/types";

export type Ending =
  | "running" | "succeeded" | "failed" | "lease_lost" | "released" | "waiting" | "cancelled" | "dead_letter" | "compensated";

/** What a step did between attempts. */
export type GapKind = "queued" | "backoff" | "lost" | "given_back" | "wait" | "redriven";

export interface Call {
  no: number;
  name: string;
  start: number;
  end: number | null;
  state: string;
}

export interface Attempt {
  claim: number;
  attempt: number | null;
  worker: string | null;
  start: number;
  end: number | null;
  how: Ending;
  /** Why it ended so: the class and message of a failure, what became of the lease. */
  why: string | null;
  calls: Call[];
}

export interface Gap {
  kind: GapKind;
  start: number;
  end: number | null;
  /** For a wait: for what. */
  what: string | null;
}

export interface Track {
  step: string;
  attempts: Attempt[];
  gaps: Gap[];
  /** When it was given up or ended without an attempt. */
  ended: { at: number; how: string } | null;
}

const ENDS: Record<string, Ending> = {
  "step.succeeded": "succeeded",
  "step.failed": "failed",
  "step.lease_lost": "lease_lost",
  "step.released": "released",
  "step.waiting": "waiting",
  "step.cancelled": "cancelled",
  "step.dead_letter": "dead_letter",
  "step.compensated": "compensated",
};

const THEN: Record<string, GapKind> = {
  "step.ready": "queued",
  "step.answered": "queued",
  "step.failed": "backoff",
  "step.lease_lost": "lost",
  "step.released": "given_back",
  "step.waiting": "wait",
  "step.redriven": "redriven",
};

const OVER: Record<string, string> = {
  "step.dead_letter": "dead letter",
  "step.skipped": "skipped",
  "step.cancelled": "cancelled",
  "step.shared": "taken from the first run",
};

const text = (value: unknown): string | null => (typeof value === "string" && value !== "" ? value : null);
const number = (value: unknown): number | null => (typeof value === "number" ? value : null);

/** Return the tracks by step, in the order in which the steps first moved. */
export function tracksOf(events: readonly Event[]): Map<string, Track> {
  const tracks = new Map<string, Track>();
  for (const event of events) {
    if (event.step === null) continue;
    let track = tracks.get(event.step);
    if (!track) tracks.set(event.step, (track = { step: event.step, attempts: [], gaps: [], ended: null }));
    take(track, event);
  }
  return tracks;
}

function take(track: Track, event: Event): void {
  const at = Date.parse(event.at);
  if (event.type.startsWith("effect.")) return effect(track, event, at);
  const ending = ENDS[event.type];
  const gap = THEN[event.type];
  if (event.type === "step.claimed") {
    closeGap(track, at);
    track.ended = null;
    track.attempts.push({
      claim: number(event.data.claim_no) ?? track.attempts.length + 1, attempt: number(event.data.attempt), worker: text(event.data.worker),
      start: at, end: null, how: "running", why: null, calls: [],
    });
    return;
  }
  if (ending) closeAttempt(track, event, at, ending);
  if (gap) {
    // A step that is ready at the end of its wait has waited until then.
    closeGap(track, at);
    track.gaps.push({ kind: gap, start: at, end: null, what: text(event.data.kind) });
  }
  const over = OVER[event.type];
  if (over) {
    closeGap(track, at);
    track.ended = { at, how: over };
  }
}

function closeGap(track: Track, at: number): void {
  const last = track.gaps.at(-1);
  if (last?.end === null) last.end = at;
}

function closeAttempt(track: Track, event: Event, at: number, how: Ending): void {
  const last = track.attempts.at(-1);
  if (!last || last.end !== null) {
    // A failure that was the last one: what came of the step is told of the attempt that made it.
    if (last && how === "dead_letter" && last.end === at) last.why ??= reasonOf(event);
    return;
  }
  last.end = at;
  last.how = how;
  last.why = reasonOf(event);
  for (const call of last.calls) if (call.end === null && how !== "waiting") call.end = at;
}

function reasonOf(event: Event): string | null {
  const { failure, error_type, message, why, reason, kind } = event.data;
  if (event.type === "step.waiting") return `for ${text(kind) ?? "something"}`;
  const head = [text(failure), text(error_type)].filter(Boolean).join(" ");
  return [head, text(message) ?? text(why) ?? text(reason)].filter(Boolean).join(": ") || null;
}

function effect(track: Track, event: Event, at: number): void {
  const last = track.attempts.at(-1);
  const no = number(event.data.effect);
  if (!last || no === null) return;
  const name = text(event.data.name) ?? "";
  if (event.type === "effect.intended") {
    last.calls.push({ no, name, start: at, end: null, state: "begun" });
    return;
  }
  const state = event.type === "effect.unknown" ? "unknown" : (text(event.data.state) ?? "settled");
  const begun = last.calls.findLast((call) => call.no === no);
  if (begun) Object.assign(begun, { end: at, state });
  else last.calls.push({ no, name, start: at, end: at, state });
}

/** Return the time the events lie in; up to `now` for a run that goes on. */
export function extent(events: readonly Event[], now: number | null): [number, number] {
  const first = events[0] ? Date.parse(events[0].at) : (now ?? 0);
  const last = events.length ? Date.parse(events.at(-1)!.at) : first;
  return [first, Math.max(now ?? last, first + 1)];
}

/** Say in a sentence what a track shows, for those who do not see it. */
export function spoken(track: Track): string {
  const parts = track.attempts.map((one) => {
    const who = one.worker ? ` on ${one.worker}` : "";
    return `attempt ${one.attempt ?? one.claim}${who}: ${one.how.replace("_", " ")}`;
  });
  if (track.ended) parts.push(track.ended.how);
  return parts.length ? parts.join("; ") : "not begun";
}
