import { Bot, Cog, GitBranch, Hand, Hourglass, MessageCircleQuestion, Split, Workflow } from "lucide-react";
import { useMemo, useSyncExternalStore, type ComponentType, type CSSProperties } from "react";
import type { GraphStep } from "@/api/types";
import { Plain } from "@/components/text";
import { doneBy, nodeSize, placed } from "@/routes/graphs/plan";

const KINDS: Record<string, ComponentType<{ className?: string; "aria-hidden"?: boolean }>> = {
  agent: Bot, approval: Hand, input: MessageCircleQuestion, signal: Hourglass, sleep: Hourglass, map: Split, policy: GitBranch, run: Workflow,
};
const wide = matchMedia("(min-width: 768px)");

function useWide(): boolean {
  return useSyncExternalStore(
    (listener) => {
      wide.addEventListener("change", listener);
      return () => wide.removeEventListener("change", listener);
    },
    () => wide.matches,
  );
}

interface Props {
  steps: GraphStep[];
  chosen: string | undefined;
  onChoose: (name: string) => void;
}

/** The graph as its author drew it; a step that is clicked is told of below. */
export function Picture({ steps, chosen, onChoose }: Props) {
  const across = useWide();
  const size = nodeSize(across);
  const { nodes, ways, width, height } = useMemo(() => placed(steps, across), [steps, across]);
  return (
    <div tabIndex={0} role="region" aria-label="The graph" className="max-h-[32rem] overflow-auto p-4">
      <div className="relative mx-auto" style={{ width, height }}>
        <svg width={width} height={height} aria-hidden className="absolute inset-0">
          <defs>
            <marker id="graph-end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0.5 L7,4 L0,7.5 z" className="fill-strong" /></marker>
          </defs>
          {ways.map(({ way, path }) => (
            <path key={`${way.from} ${way.to}`} d={path} className="fill-none stroke-strong" strokeWidth={1.5} strokeDasharray={way.conditional ? "4 4" : undefined} markerEnd="url(#graph-end)" />
          ))}
        </svg>
        {nodes.map(({ step, x, y }) => <Node key={step.name} step={step} at={{ left: x, top: y, ...size }} chosen={chosen === step.name} onChoose={onChoose} />)}
      </div>
      {ways.some(({ way }) => way.conditional) && <p className="mt-3 text-center text-[12.5px] text-soft">Dashed: taken if a condition says so.</p>}
    </div>
  );
}

function Node({ step, at, chosen, onChoose }: { step: GraphStep; at: CSSProperties; chosen: boolean; onChoose: (name: string) => void }) {
  const Mark = KINDS[step.kind] ?? Cog;
  return (
    <button type="button" aria-pressed={chosen} onClick={() => onChoose(step.name)} style={at}
      className={`absolute flex items-center gap-2.5 rounded-lg border px-3 text-left transition-colors ${chosen ? "border-accent bg-accent-soft" : "border-strong bg-panel hover:bg-raised"}`}>
      <Mark className="size-4 shrink-0 text-soft" aria-hidden />
      <span className="min-w-0">
        <span className="block truncate font-medium"><Plain text={step.name} /></span>
        <span className="block truncate text-xs text-soft"><Plain text={doneBy(step)} /></span>
      </span>
    </button>
  );
}
