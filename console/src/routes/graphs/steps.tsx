import { ChevronRight } from "lucide-react";
import { useEffect, useRef, type ReactNode } from "react";
import type { GraphStep } from "@/api/types";
import { Json } from "@/components/json";
import { Fact, Facts, Panel } from "@/components/panel";
import { Plain } from "@/components/text";
import { duration } from "@/lib/format";
import { doneBy, edgesOf, isDecider } from "@/routes/graphs/plan";

interface Props {
  steps: GraphStep[];
  chosen: string | undefined;
  onChoose: (name: string) => void;
}

/** Every step in the order it was written in, those that only decide included; one is open. */
export function Steps({ steps, chosen, onChoose }: Props) {
  return (
    <Panel title={`Steps (${steps.length})`} flush>
      <ul className="divide-y">
        {steps.map((step) => <Step key={step.name} step={step} open={chosen === step.name} onChoose={onChoose} />)}
      </ul>
    </Panel>
  );
}

function Step({ step, open, onChoose }: { step: GraphStep; open: boolean; onChoose: (name: string) => void }) {
  const place = useRef<HTMLLIElement>(null);
  useEffect(() => {
    if (open) place.current?.scrollIntoView({ block: "nearest" });
  }, [open]);
  return (
    <li ref={place}>
      <h3>
        <button type="button" aria-expanded={open} onClick={() => onChoose(step.name)} className="flex w-full flex-wrap items-center gap-x-3 gap-y-0.5 px-4 py-2.5 text-left hover:bg-raised/60">
          <ChevronRight className={`size-4 shrink-0 text-faint transition-transform ${open ? "rotate-90" : ""}`} aria-hidden />
          <span className="font-medium break-all"><Plain text={step.name} /></span>
          <span className="text-[12.5px] text-soft"><Plain text={isDecider(step) ? "decides" : doneBy(step)} /></span>
          {step.depends_on.length > 0 && <span className="min-w-0 truncate text-[12.5px] text-soft sm:ml-auto">after <Plain text={edgesOf(step).map(({ from }) => from).join(", ")} /></span>}
        </button>
      </h3>
      {open && <Told step={step} />}
    </li>
  );
}

function Told({ step }: { step: GraphStep }) {
  const retry = step.retry as { max_attempts?: number; base_s?: number; cap_s?: number };
  const facts: [string, ReactNode][] = [["Kind", <Plain text={step.kind} />]];
  if (step.tool && step.tool !== step.kind) facts.push(["Tool", <code className="font-mono text-[12.5px]"><Plain text={step.tool} /></code>]);
  const deciders = edgesOf(step).map(({ from }) => from).filter((name) => name.startsWith("when."));
  for (const { from, when } of edgesOf(step)) {
    if (when !== null) facts.push([`After ${from}`, <>only when <code className="font-mono text-[12.5px]"><Plain text={when} /></code></>]);
  }
  if (deciders.length) facts.push(["Only when", <><code className="font-mono text-[12.5px]"><Plain text={deciders.join(", ")} /></code> {deciders.length === 1 ? "says so" : "one of these says so"}</>]);
  else if (step.when) facts.push(["Only when", <code className="font-mono text-[12.5px]"><Plain text={step.when} /></code>]);
  if (retry.max_attempts) facts.push(["Attempts", retry.max_attempts === 1 ? "one" : `at most ${retry.max_attempts}, from ${duration(retry.base_s ?? 0)} to ${duration(retry.cap_s ?? 0)} apart`]);
  if (step.timeout_s !== null) facts.push(["Timeout", duration(step.timeout_s)]);
  if (step.compensate !== null) facts.push(["Undone by", <code className="font-mono text-[12.5px]"><Plain text={step.compensate} /></code>]);
  if (step.queue !== "default") facts.push(["Queue", <Plain text={step.queue} />]);
  if (step.priority !== 0) facts.push(["Priority", step.priority]);
  return (
    <div className="flex flex-col gap-3 px-4 pt-1 pb-4 sm:pl-11">
      <Facts>{facts.map(([name, value]) => <Fact key={name} name={name}>{value}</Fact>)}</Facts>
      {step.input !== null && step.input !== undefined && <Json value={step.input} label={`Input of ${step.name}`} />}
    </div>
  );
}
