import { Link } from "@tanstack/react-router";
import type { RunSummary } from "@/api/types";
import { Status, STATUS, type Tone } from "@/components/status";
import type { Column } from "@/components/table";
import { Plain } from "@/components/text";
import { Time, Took } from "@/components/time";
import { count, money, shortId } from "@/lib/format";

/** What a run is called: its goal, else what it was made of. */
export function runTitle(run: Pick<RunSummary, "goal" | "graph" | "agent">): string {
  return run.goal ?? run.graph ?? run.agent ?? "Run without a goal";
}

const BAR: Record<Tone, string> = { good: "bg-good", busy: "bg-busy", wait: "bg-wait", bad: "bg-bad", idle: "bg-strong" };

/** How far a run is: steps that have ended of all there are. */
export function Progress({ run }: { run: RunSummary }) {
  const done = run.steps_total - run.steps_left;
  const share = run.steps_total ? (done / run.steps_total) * 100 : 0;
  return (
    <span className="flex items-center gap-2">
      <span className="h-1 min-w-8 flex-1 overflow-hidden rounded-full bg-idle-soft" aria-hidden>
        <span className={`block h-full rounded-full ${BAR[STATUS[run.status]?.tone ?? "idle"]}`} style={{ width: `${share}%` }} />
      </span>
      <span className="tabular text-[12.5px] text-soft">{count(done)}/{count(run.steps_total)}<span className="sr-only"> steps</span></span>
    </span>
  );
}

/** The run's name as the link that the whole row is. */
export function RunLink({ run }: { run: RunSummary }) {
  const source = run.goal ? run.graph ?? run.agent : run.graph ? "graph" : run.agent ? "agent" : null;
  return (
    <Link to="/runs/$id" params={{ id: run.id }} search={{}} className="flex min-w-0 items-baseline gap-2 outline-none after:absolute after:inset-0 focus-visible:after:rounded-md focus-visible:after:outline-2 focus-visible:after:-outline-offset-2 focus-visible:after:outline-accent">
      <span className="min-w-0 truncate font-medium"><Plain text={runTitle(run)} /></span>
      {source && <span className="min-w-0 shrink-[8] truncate text-[12.5px] text-faint"><Plain text={source} /></span>}
    </Link>
  );
}

const nothing = <span className="text-faint">–</span>;

export const RUN_COLUMNS: readonly Column<RunSummary>[] = [
  { id: "status", header: "Status", width: "132px", cell: (run) => <Status status={run.status} small /> },
  { id: "what", header: "Run", width: "minmax(160px,1fr)", cell: (run) => <RunLink run={run} /> },
  { id: "id", header: "Id", width: "72px", cell: (run) => <code className="font-mono text-xs text-faint" title={run.id}>{shortId(run.id)}</code> },
  { id: "steps", header: "Steps", width: "112px", cell: (run) => <Progress run={run} /> },
  { id: "started", header: "Submitted", width: "112px", right: true, cell: (run) => <span className="text-soft"><Time at={run.created_at} /></span> },
  { id: "took", header: "Took", width: "88px", right: true, cell: (run) => <span className="text-soft"><Took from={run.started_at} to={run.finished_at} /></span> },
  { id: "tokens", header: "Tokens", width: "64px", right: true, cell: (run) => (run.input_tokens + run.output_tokens ? count(run.input_tokens + run.output_tokens) : nothing) },
  { id: "cost", header: "Cost", width: "80px", right: true, cell: (run) => (run.microusd ? money(run.microusd) : nothing) },
];

export function RunCard({ run }: { run: RunSummary }) {
  return (
    <div className="flex flex-col gap-1.5">
      <div className="flex items-center justify-between gap-3">
        <RunLink run={run} />
        <Status status={run.status} small />
      </div>
      <div className="flex items-center gap-3 text-[12.5px] text-soft">
        <code className="font-mono text-xs text-faint">{shortId(run.id)}</code>
        <span className="w-24"><Progress run={run} /></span>
        <span className="ml-auto"><Time at={run.created_at} /></span>
      </div>
    </div>
  );
}
