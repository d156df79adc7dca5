/** Why a run does not move, ordered by who has to do something about it. */
import type { StepReason } from "@/api/types";

export type Weight = "person" | "broken" | "wait" | "moving";

const WEIGHT: Record<string, Weight> = {
  waits_for_approval: "person", waits_for_input: "person", unknown_effect: "person", paused: "person", budget: "person",
  no_live_worker: "broken", no_worker_offers: "broken", no_worker_serves_queue: "broken", stranded: "broken", lease_expired: "broken",
  worker_suspected: "broken", gate_shut: "broken",
  retry_scheduled: "wait", agent_busy: "wait", waits_for_signal: "wait", waits_for_timer: "wait", waits_for_run: "wait",
  waits_for_spawned_steps: "moving", running: "moving", ready: "moving", waits_for_steps: "moving",
};

const LABEL: Record<string, string> = {
  waits_for_approval: "needs an approval", waits_for_input: "needs an answer", unknown_effect: "a call's end is unknown", paused: "paused",
  budget: "budget used up", no_live_worker: "no worker is alive", no_worker_offers: "no worker offers the tool",
  no_worker_serves_queue: "no worker serves the queue", stranded: "stranded", lease_expired: "lease expired", worker_suspected: "worker suspected dead",
  gate_shut: "provider's gate shut", retry_scheduled: "next attempt scheduled", agent_busy: "agent busy", waits_for_signal: "waits for a signal",
  waits_for_timer: "sleeps", waits_for_run: "waits for a run", waits_for_spawned_steps: "waits for the steps it added", running: "running",
  ready: "ready", waits_for_steps: "waits for other steps",
};

const ORDER: Weight[] = ["person", "broken", "wait", "moving"];

export interface Group {
  reason: string;
  label: string;
  weight: Weight;
  steps: StepReason[];
}

export function grouped(reasons: readonly StepReason[]): Group[] {
  const groups = new Map<string, Group>();
  for (const one of reasons) {
    const group = groups.get(one.reason);
    if (group) group.steps.push(one);
    else groups.set(one.reason, { reason: one.reason, label: LABEL[one.reason] ?? one.reason.replaceAll("_", " "), weight: WEIGHT[one.reason] ?? "wait", steps: [one] });
  }
  return [...groups.values()].sort((a, b) => ORDER.indexOf(a.weight) - ORDER.indexOf(b.weight));
}
