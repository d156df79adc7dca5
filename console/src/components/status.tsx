import { AlertOctagon, Ban, Check, CircleDashed, CircleDot, Clock, FastForward, Hand, Loader2, MessageCircleQuestion, Pause, Undo2, Wallet, X } from "lucide-react";
import type { ComponentType } from "react";
import type { RunStatus, StepStatus } from "@/api/types";

export type Tone = "good" | "busy" | "wait" | "bad" | "idle";
type Icon = ComponentType<{ className?: string; "aria-hidden"?: boolean }>;

/** What each status is called, how it is meant and how it is drawn: never by colour alone. */
export const STATUS: Record<RunStatus | StepStatus, { label: string; tone: Tone; icon: Icon; spin?: boolean }> = {
  pending: { label: "pending", tone: "idle", icon: CircleDashed },
  ready: { label: "ready", tone: "busy", icon: CircleDot },
  running: { label: "running", tone: "busy", icon: Loader2, spin: true },
  waiting: { label: "waiting", tone: "wait", icon: Clock },
  waiting_for_approval: { label: "needs approval", tone: "wait", icon: Hand },
  waiting_for_input: { label: "needs an answer", tone: "wait", icon: MessageCircleQuestion },
  paused: { label: "paused", tone: "wait", icon: Pause },
  compensating: { label: "undoing", tone: "wait", icon: Undo2 },
  completed: { label: "completed", tone: "good", icon: Check },
  succeeded: { label: "succeeded", tone: "good", icon: Check },
  failed: { label: "failed", tone: "bad", icon: X },
  dead_letter: { label: "dead letter", tone: "bad", icon: AlertOctagon },
  cancelled: { label: "cancelled", tone: "idle", icon: Ban },
  budget_exceeded: { label: "over budget", tone: "bad", icon: Wallet },
  skipped: { label: "skipped", tone: "idle", icon: FastForward },
  compensated: { label: "undone", tone: "idle", icon: Undo2 },
};

export const TONE: Record<Tone, string> = {
  good: "text-good bg-good-soft",
  busy: "text-busy bg-busy-soft",
  wait: "text-wait bg-wait-soft",
  bad: "text-bad bg-bad-soft",
  idle: "text-idle bg-idle-soft",
};

export function Status({ status, small }: { status: RunStatus | StepStatus; small?: boolean }) {
  const { label, tone, icon: Picture, spin } = STATUS[status] ?? { label: status, tone: "idle", icon: CircleDashed };
  return (
    <span data-status={status} className={`inline-flex items-center gap-1 rounded-full font-medium whitespace-nowrap ${TONE[tone]} ${small ? "px-1.5 text-[11.5px] leading-5" : "px-2 text-xs leading-6"}`}>
      <Picture className={`size-3.5 ${spin ? "animate-spin" : ""}`} aria-hidden />
      {label}
    </span>
  );
}

/** A word with a colour: a state that is no run's and no step's. */
export function Tag({ tone = "idle", children }: { tone?: Tone; children: React.ReactNode }) {
  return <span className={`inline-flex items-center gap-1 rounded-full px-2 text-xs leading-6 font-medium whitespace-nowrap ${TONE[tone]}`}>{children}</span>;
}
