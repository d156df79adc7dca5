import { Handle, Position, type Node, type NodeProps } from "@xyflow/react";
import { memo } from "react";
import type { Step } from "@/api/types";
import { STATUS, TONE, type Tone } from "@/components/status";
import { Plain } from "@/components/text";
import { Took } from "@/components/time";
import { count } from "@/lib/format";
import { KindIcon, shortName } from "@/routes/run/kind";

export interface StepData extends Record<string, unknown> {
  step: Step;
  selected: boolean;
  select: (name: string) => void;
}
export type StepNode = Node<StepData, "step">;

/** Edges begin at the box itself: the points they hold on to take no room. */
const DOT = "invisible size-0! min-h-0! min-w-0! border-0!";

const RAIL: Record<Tone, string> = { good: "bg-good", busy: "bg-busy", wait: "bg-wait", bad: "bg-bad", idle: "bg-strong" };

export const StepBox = memo(function StepBox({ data: { step, selected, select } }: NodeProps<StepNode>) {
  const { label, tone, icon: Picture, spin } = STATUS[step.status];
  const quiet = step.status === "skipped" || step.status === "cancelled" || step.status === "pending";
  return (
    <>
      <Handle type="target" position={Position.Left} isConnectable={false} className={DOT} />
      <button
        type="button"
        onClick={() => select(step.name)}
        aria-pressed={selected}
        data-step={step.name}
        data-status={step.status}
        title={step.name}
        className={`pointer-events-auto relative flex h-full w-full flex-col justify-center gap-1.5 overflow-hidden rounded-lg border bg-panel pr-3 pl-4 text-left shadow-xs transition-colors hover:border-strong ${selected ? "border-accent ring-2 ring-accent/30" : ""} ${step.status === "pending" ? "border-dashed" : ""}`}
      >
        <span className={`absolute inset-y-0 left-0 w-1 ${RAIL[tone]}`} aria-hidden />
        <span className="flex w-full items-center gap-1.5">
          <span className="text-soft"><KindIcon step={step} /></span>
          <span className={`min-w-0 flex-1 truncate text-[13px] font-medium ${quiet ? "text-soft" : ""}`}><Plain text={shortName(step)} /></span>
          {step.attempt > 1 && <span className="tabular rounded bg-wait-soft px-1 text-[11px] font-medium text-wait" title={`attempt ${step.attempt} of ${step.max_attempts}`}>×{step.attempt}</span>}
          {step.crashes > 0 && <span className="tabular rounded bg-bad-soft px-1 text-[11px] font-medium text-bad" title={`${step.crashes} leases lost`}>†{step.crashes}</span>}
        </span>
        <span className="flex w-full items-center gap-1.5 text-[11.5px] text-soft">
          <span className={`inline-flex items-center gap-1 ${TONE[tone].split(" ")[0]}`}>
            <Picture className={`size-3 ${spin ? "animate-spin" : ""}`} aria-hidden />
            {label}
          </span>
          <span className="tabular ml-auto truncate">
            {step.tokens ? `${count(step.tokens)} tok · ` : ""}
            {step.started_at && (step.finished_at || step.status === "running") ? <Took from={step.started_at} to={step.finished_at} /> : step.shared ? "shared" : ""}
          </span>
        </span>
      </button>
      <Handle type="source" position={Position.Right} isConnectable={false} className={DOT} />
    </>
  );
});

export type BlockNode = Node<{ count: number }, "block">;

/** A frame around the steps of a layer that was folded. */
export const BlockBox = memo(function BlockBox({ data: { count: many } }: NodeProps<BlockNode>) {
  return (
    <>
      <Handle type="target" position={Position.Left} isConnectable={false} className={DOT} />
      <div className="relative h-full w-full rounded-xl border border-dashed border-strong bg-panel/40">
        <span className="absolute -top-6 left-1 text-[13px] text-soft">{count(many)} steps of one layer</span>
      </div>
      <Handle type="source" position={Position.Right} isConnectable={false} className={DOT} />
    </>
  );
});
