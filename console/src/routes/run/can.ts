/** What may be done with a run as it stands. The server decides; this is what is offered. */
import type { Run, Step } from "@/api/types";
import { FINAL } from "@/live/apply";

export interface Can {
  cancel: boolean;
  pause: boolean;
  resume: boolean;
  redrive: boolean;
  message: boolean;
  replayRecorded: boolean;
}

export function can(run: Pick<Run, "status" | "agent"> & { steps: readonly Pick<Step, "status">[] }): Can {
  const final = FINAL.has(run.status);
  const going = !final && run.status !== "compensating";
  return {
    cancel: going,
    pause: going && run.status !== "paused",
    resume: run.status === "paused",
    redrive: final && run.steps.some((step) => step.status === "dead_letter"),
    message: run.agent !== null && (run.status === "completed" || run.status === "waiting_for_input"),
    replayRecorded: final,
  };
}
