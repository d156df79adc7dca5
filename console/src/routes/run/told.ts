/** What an event says, in a line. */
import type { Event } from "@/api/types";
import type { Tone } from "@/components/status";
import { bytes, count, duration, money } from "@/lib/format";

const TONES: Record<string, Tone> = {
  "step.claimed": "busy", "step.succeeded": "good", "step.failed": "bad", "step.lease_lost": "bad", "step.fenced": "bad",
  "step.dead_letter": "bad", "step.waiting": "wait", "step.answered": "good", "step.released": "wait", "step.redriven": "busy",
  "effect.unknown": "bad", "run.started": "busy", "run.completed": "good", "run.failed": "bad", "run.budget_exceeded": "bad",
  "run.paused": "wait", "run.waiting": "wait", "run.waiting_for_approval": "wait", "run.waiting_for_input": "wait",
  "run.compensating": "wait", "run.redriven": "busy", "run.resumed": "busy", "run.continued": "busy",
};

export function toneOf(event: Event): Tone {
  if (event.type === "effect.recorded" && event.data.state === "failed") return "bad";
  return TONES[event.type] ?? "idle";
}

const words = (...parts: unknown[]): string => parts.filter((part) => typeof part === "string" && part !== "").join(" · ");
const by = (who: unknown): string => (typeof who === "string" && who ? `by ${who}` : "");
const num = (value: unknown): number | null => (typeof value === "number" ? value : null);

function usage(value: unknown): string {
  if (value === null || typeof value !== "object") return "";
  const { input_tokens, output_tokens, model } = value as Record<string, unknown>;
  const tokens = num(input_tokens) === null ? "" : `${count(num(input_tokens)!)} → ${count(num(output_tokens) ?? 0)} tokens`;
  return words(model, tokens);
}

function progress(value: unknown): string {
  if (value === null || typeof value !== "object") return "";
  const { fraction, text } = value as Record<string, unknown>;
  return words(num(fraction) === null ? "" : `${Math.round(num(fraction)! * 100)} %`, text);
}

type Teller = (data: Event["data"]) => string;

const effectOf: Teller = (data) => `${String(data.name ?? "")} #${String(data.effect ?? "?")}`;

const TELL: Record<string, Teller> = {
  "run.created": (data) => words(num(data.steps) === null ? "" : `${count(num(data.steps)!)} steps`, data.goal, data.origin ? `replays ${String(data.origin)}` : ""),
  "run.extended": (data) => `${String(data.steps ?? "?")} steps were added`,
  "run.failed": (data) => words(data.step, data.reason),
  "run.cancelled": (data) => words(by(data.by), data.reason),
  "run.paused": (data) => words(by(data.by), data.reason),
  "run.resumed": (data) => words(by(data.by), data.reason),
  "run.signalled": (data) => words(data.name, by(data.by)),
  "run.budget_set": (data) => by(data.by),
  "run.redriven": (data) => words(num(data.steps) === null ? "" : `${String(data.steps)} steps`, by(data.by)),
  "step.claimed": (data) => words(`attempt ${String(data.attempt ?? "?")}`, by(data.worker)),
  "step.succeeded": (data) => words(num(data.output_bytes) === null ? "" : bytes(num(data.output_bytes)!), by(data.worker)),
  "step.failed": (data) => words(`attempt ${String(data.attempt ?? "?")} of ${String(data.of ?? "?")}`, [data.failure, data.error_type].filter(Boolean).join(" "), data.message, num(data.retry_in_s) === null ? "" : `again in ${duration(num(data.retry_in_s)!)}`),
  "step.lease_lost": (data) => words(by(data.worker).replace("by", "of"), data.why, `${String(data.crashes ?? "?")} of ${String(data.of ?? "?")} in a row`),
  "step.released": (data) => words(by(data.worker), data.why, data.reason),
  "step.dead_letter": (data) => words(data.reason, data.failure, data.message),
  "step.waiting": (data) => words(data.kind, data.name),
  "step.answered": (data) => words(data.decision, by(data.by), data.reason),
  "step.skipped": (data) => words(data.why, data.when),
  "step.cancelled": (data) => words(data.why),
  "step.emitted": (data) => words(data.name, progress(data.data)),
  "step.artifact": (data) => words(data.name, data.media_type, num(data.bytes) === null ? "" : bytes(num(data.bytes)!)),
  "step.fenced": (data) => words(data.what, by(data.worker), "came too late and was refused"),
  "effect.intended": (data) => words(effectOf(data), data.class, by(data.worker)),
  "effect.recorded": (data) => words(effectOf(data), data.state, usage(data.usage), num(data.microusd) ? money(num(data.microusd)!) : ""),
  "effect.unknown": (data) => words(effectOf(data), "nobody heard whether it happened", data.message),
  "effect.settled": (data) => words(effectOf(data), data.decision, by(data.by)),
};

/** Return the facts of an event that a reader looks for. */
export function told(event: Event): string {
  return (TELL[event.type] ?? ((data: Event["data"]) => words(data.name, data.why, data.reason, by(data.by))))(event.data);
}

export interface EventFilter {
  type: string;
  text: string;
}

/** Return the events that a filter leaves; a type may be a family: "step" is every "step.…". */
export function filtered(events: readonly Event[], { type, text }: EventFilter): readonly Event[] {
  const wanted = text.trim().toLowerCase();
  if (!type && !wanted) return events;
  return events.filter((event) => {
    if (type && event.type !== type && !event.type.startsWith(`${type}.`)) return false;
    return !wanted || `${event.type} ${event.step ?? ""} ${told(event)}`.toLowerCase().includes(wanted);
  });
}
