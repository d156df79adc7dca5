import { useQuery } from "@tanstack/react-query";
import { getRouteApi, useNavigate } from "@tanstack/react-router";
import { ChartGantt, List, Wallet, Workflow } from "lucide-react";
import { lazy, Suspense, useCallback, useEffect, useMemo, useState } from "react";
import { Problem } from "@/api/client";
import { runQuery } from "@/api/queries";
import type { Event, Run } from "@/api/types";
import { Empty, Failure, Heading, Skeleton } from "@/components/panel";
import { FINAL } from "@/live/apply";
import { useLiveRun } from "@/live/run";
import { BudgetView } from "@/routes/run/budget";
import { Events } from "@/routes/run/events";
import { Head } from "@/routes/run/head";
import { ReplayDialog } from "@/routes/run/replay";
import { StepPanel } from "@/routes/run/step/panel";
import { Timeline } from "@/routes/run/timeline/timeline";
import { Why } from "@/routes/run/why";

const loadGraph = () => import("@/routes/run/graph/graph");
const GraphView = lazy(loadGraph);
const route = getRouteApi("/runs/$id");

const VIEWS = [
  { view: "graph", label: "Graph", icon: Workflow },
  { view: "timeline", label: "Timeline", icon: ChartGantt },
  { view: "events", label: "Events", icon: List },
  { view: "budget", label: "Budget", icon: Wallet },
] as const;
type View = (typeof VIEWS)[number]["view"];

/** One run: how it stands, why, and everything that happened. */
export function RunScreen() {
  const { id } = route.useParams();
  const { data: run, error, refetch } = useQuery(runQuery(id));
  const { view } = route.useSearch();
  useTitle(run);
  // The drawing is fetched beside the run, not after it.
  useEffect(() => {
    if (!view || view === "graph") void loadGraph();
  }, [view]);
  if (run) return <Loaded key={id} run={run} />;
  if (error instanceof Problem && error.status === 404) return <><Heading title="Run" /><Empty title="There is no such run">It may have been removed by retention, or belongs to another tenant. Its id: <code className="font-mono break-all">{id}</code></Empty></>;
  if (error) return <Failure error={error} retry={() => void refetch()} />;
  return <Skeleton rows={8} />;
}

function useTitle(run: Run | undefined): void {
  const name = run ? (run.goal ?? run.graph ?? run.agent ?? "Run") : null;
  useEffect(() => {
    if (!name) return;
    const before = document.title;
    document.title = `${name.slice(0, 60)} · durable-agent`;
    return () => {
      document.title = before;
    };
  }, [name]);
}

/** What of the address this screen reads and writes. */
function usePlace() {
  const search = route.useSearch() as Record<string, string | undefined>;
  const navigate = useNavigate();
  const { id } = route.useParams();
  const go = useCallback(
    (change: Record<string, string | undefined>, replace = true) =>
      void navigate({ to: "/runs/$id", params: { id }, search: (before: Record<string, string | undefined>) => ({ ...before, ...change }), replace }),
    [navigate, id],
  );
  return { search, go };
}

function Loaded({ run }: { run: Run }) {
  const ended = FINAL.has(run.status);
  const [life, setLife] = useState({ ended, no: 0 });
  // A run that is redriven goes on after its socket has closed: the screen of its next life has a socket of its own.
  if (life.ended !== ended) setLife({ ended, no: life.no + (ended ? 0 : 1) });
  return <Screen key={life.no} run={run} />;
}

function Screen({ run }: { run: Run }) {
  const { events, speech, connection } = useLiveRun(run.id);
  const { search, go } = usePlace();
  const [replay, setReplay] = useState<{ from: string | null } | null>(null);
  const view = VIEWS.find((one) => one.view === search.view)?.view ?? "graph";
  const select = useCallback((step: string) => go({ step }), [go]);
  const chosen = useMemo(() => run.steps.find((step) => step.name === search.step) ?? null, [run.steps, search.step]);
  return (
    <div className="flex flex-1 flex-col gap-4">
      <Head run={run} events={events} connection={connection} onReplay={() => setReplay({ from: null })} onBudget={() => go({ view: "budget" })} />
      {!FINAL.has(run.status) && <Why run={run} onSelect={select} />}
      <Tabs view={view} onView={(next) => go({ view: next }, false)} events={events.length} />
      <div className="flex min-h-[30rem] flex-1 gap-4">
        <div className="relative min-w-0 flex-1">
          <div className="absolute inset-0" id="view" role="tabpanel" aria-labelledby={`tab-${view}`}>
            <Shown view={view} run={run} events={events} search={search} go={go} select={select} chosen={chosen?.name ?? null} />
          </div>
        </div>
        {chosen && <StepPanel key={chosen.name} run={run} step={chosen} events={events} speech={speech} onClose={() => go({ step: undefined })} onSelect={select} onReplay={(from) => setReplay({ from })} />}
      </div>
      {replay && <ReplayDialog run={run} from={replay.from} onClose={() => setReplay(null)} />}
    </div>
  );
}

interface ShownProps {
  view: View;
  run: Run;
  events: Event[];
  search: Record<string, string | undefined>;
  go: (change: Record<string, string | undefined>) => void;
  select: (step: string) => void;
  chosen: string | null;
}

function Shown({ view, run, events, search, go, select, chosen }: ShownProps) {
  const live = !FINAL.has(run.status);
  switch (view) {
    case "graph":
      return (
        <div className="h-full overflow-hidden rounded-lg border bg-page">
          <Suspense fallback={<div className="p-4"><Skeleton rows={6} /></div>}><GraphView steps={run.steps} selected={chosen} onSelect={select} /></Suspense>
        </div>
      );
    case "timeline":
      return <Timeline steps={run.steps} events={events} live={live} selected={chosen} onSelect={select} />;
    case "events":
      return <Events events={events} live={live} filter={{ type: search.type ?? "", text: search.q ?? "" }} onFilter={({ type, text }) => go({ type: type || undefined, q: text || undefined })} onSelect={select} />;
    case "budget":
      return <BudgetView run={run} onSelect={select} />;
  }
}

/** Tabs as ARIA has them: one is in the tab order, the arrows go from one to the next. */
function Tabs({ view, onView, events }: { view: View; onView: (view: View) => void; events: number }) {
  const move = (by: number) => {
    const next = VIEWS[(VIEWS.findIndex((one) => one.view === view) + by + VIEWS.length) % VIEWS.length]!;
    onView(next.view);
    document.getElementById(`tab-${next.view}`)?.focus();
  };
  return (
    <div role="tablist" aria-label="Views of the run" className="-mb-1 flex gap-1 overflow-x-auto shadow-[inset_0_-1px_0_var(--line)]">
      {VIEWS.map(({ view: one, label, icon: Picture }) => (
        <button
          key={one}
          id={`tab-${one}`}
          type="button"
          role="tab"
          aria-selected={one === view}
          aria-controls="view"
          tabIndex={one === view ? 0 : -1}
          onClick={() => onView(one)}
          onKeyDown={(event) => (event.key === "ArrowRight" ? move(1) : event.key === "ArrowLeft" ? move(-1) : undefined)}
          className={`flex h-9 items-center gap-1.5 border-b-2 px-3 whitespace-nowrap outline-offset-[-2px] ${one === view ? "border-accent font-medium text-ink" : "border-transparent text-soft hover:text-ink"}`}
        >
          <Picture className="size-4 max-sm:hidden" aria-hidden />
          {label}
          {one === "events" && events > 0 && <span className="tabular text-[12px] text-soft">{events}</span>}
        </button>
      ))}
    </div>
  );
}
