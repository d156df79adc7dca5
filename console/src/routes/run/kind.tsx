import { Bot, Boxes, Clock, FileText, Hand, ListTree, MessageCircleQuestion, Play, Radio, ShieldCheck, Undo2, Wrench } from "lucide-react";
import type { ComponentType } from "react";
import type { Step } from "@/api/types";

const KINDS: Record<string, ComponentType<{ className?: string; "aria-hidden"?: boolean }>> = {
  tool_call: Wrench, llm_call: FileText, agent: Bot, approval: Hand, input: MessageCircleQuestion, signal: Radio, sleep: Clock,
  policy: ShieldCheck, map: ListTree, run: Play, graph: Boxes,
};

/** The picture of what a step is, by its kind. */
export function KindIcon({ step, className = "size-3.5" }: { step: Pick<Step, "kind" | "compensates">; className?: string }) {
  const Picture = step.compensates ? Undo2 : (KINDS[step.kind] ?? Wrench);
  return <Picture className={className} aria-hidden />;
}

/** A name without the kind that its picture tells. */
export function shortName(step: Pick<Step, "name" | "kind">): string {
  const prefix = `${step.kind}.`;
  return step.name.startsWith(prefix) && step.name.length > prefix.length ? step.name.slice(prefix.length) : step.name;
}
