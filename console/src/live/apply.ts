/** What an event changes in what is shown before the server is asked again. */
import type { Event, Run, RunStatus, Step, StepStatus } from "@/api/types";

const STEP: Record<string, StepStatus> = {
  "step.ready": "ready",
  "step.claimed": "running",
  "step.waiting": "waiting",
  "step.answered": "ready",
  "step.failed": "ready",
  "step.released": "ready",
  "step.lease_lost": "ready",
  "step.redriven": "ready",
  "step.succeeded": "succeeded",
  "step.dead_letter": "dead_letter",
  "step.skipped": "skipped",
  "step.cancelled": "cancelled",
  "step.compensated": "compensated",
};

const RUN: Record<string, RunStatus> = {
  "run.started": "running",
  "run.resumed": "running",
  "run.continued": "running",
  "run.redriven": "running",
  "run.waiting": "waiting",
  "run.waiting_for_approval": "waiting_for_approval",
  "run.waiting_for_input": "waiting_for_input",
  "run.paused": "paused",
  "run.compensating": "compensating",
  "run.completed": "completed",
  "run.failed": "failed",
  "run.cancelled": "cancelled",
  "run.budget_exceeded": "budget_exceeded",
};

export const FINAL: ReadonlySet<string> = new Set(["completed", "failed", "cancelled", "budget_exceeded"]);
const STEP_FINAL: ReadonlySet<string> = new Set(["succeeded", "dead_letter", "skipped", "cancelled", "compensated"]);

/** Return the run as the events leave it; the same object when they change nothing that is shown. */
export function applyEvents(run: Run, events: readonly Event[]): Run {
  const steps = new Map<string, Step>();
  let head: Run = run;
  for (const event of events) {
    if (event.seq <= run.last_seq) continue;
    head = { ...head, last_seq: Math.max(head.last_seq, event.seq) };
    const status = RUN[event.type];
    if (status) head = { ...head, status, ...(FINAL.has(status) ? { finished_at: event.at } : {}), ...(event.type === "run.started" ? { started_at: event.at } : {}) };
    if (event.step === null) continue;
    const before = steps.get(event.step) ?? run.steps.find((step) => step.name === event.step);
    if (before) steps.set(event.step, stepAfter(before, event));
  }
  if (head === run) return run;
  return steps.size ? { ...head, steps: run.steps.map((step) => steps.get(step.name) ?? step) } : head;
}

/** A tab may stay open for days: of so many events, the oldest of those that move nothing are let go, down to so many. */
export const MOST = 20_000;
export const KEPT = 16_000;

/** Return the events that are kept; the same list while they are few. */
export function bounded(events: Event[]): Event[] {
  if (events.length <= MOST) return events;
  let excess = events.length - KEPT;
  const kept = events.filter((event) => !(excess > 0 && (event.type === "step.emitted" || event.type.startsWith("effect.")) && excess--));
  return kept.slice(Math.max(0, kept.length - MOST));
}

function stepAfter(step: Step, event: Event): Step {
  const status = STEP[event.type];
  if (!status) return step;
  const data = event.data as { worker?: string; attempt?: number; claim_no?: number };
  return {
    ...step,
    status,
    ...(event.type === "step.claimed" ? { worker: data.worker ?? step.worker, started_at: event.at, attempt: data.attempt ?? step.attempt, claim_no: data.claim_no ?? step.claim_no } : {}),
    ...(STEP_FINAL.has(status) ? { finished_at: event.at } : {}),
  };
}
