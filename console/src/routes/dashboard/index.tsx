import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { Plus } from "lucide-react";
import { lazy, Suspense } from "react";
import { statsQuery } from "@/api/queries";
import type { Stats } from "@/api/types";
import { buttonClass } from "@/components/button";
import { Failure, Heading } from "@/components/panel";
import { count } from "@/lib/format";
import { Attention } from "@/routes/dashboard/attention";
import { Engine } from "@/routes/dashboard/engine";
import { GROUPS, inGroup, WINDOWS, windowOf } from "@/routes/dashboard/figures";
import { FirstRun } from "@/routes/dashboard/first";
import { Latest, latestQuery } from "@/routes/dashboard/lists";

// What needs a person is to be seen before the charts have come.
const Charts = lazy(() => import("@/routes/dashboard/charts"));
const FAILURES = ["failed", "budget_exceeded"] as const;

export function Dashboard() {
  const search = useSearch({ strict: false }) as { window?: unknown };
  const window = windowOf(search.window);
  const latest = useQuery(latestQuery());
  const fresh = latest.data?.items.length === 0;
  return (
    <>
      <Heading title="Dashboard">
        {!fresh && <WindowSwitch window={window} />}
        <Link to="/new" search={{}} className={buttonClass("primary")}><Plus className="size-4" aria-hidden />New run</Link>
      </Heading>
      {fresh ? (
        <>
          <Attention />
          <FirstRun />
        </>
      ) : (
        <div className="flex flex-col gap-4">
          <Attention />
          <Figures window={window} />
          <div className="grid items-start gap-4 xl:grid-cols-3 lg:grid-cols-2">
            <div className="min-w-0 lg:col-span-2 xl:col-span-1"><Engine /></div>
            <div className="min-w-0"><Latest title="Latest runs" empty="No runs yet" /></div>
            <div className="min-w-0"><Latest title="Latest failures" status={FAILURES} empty="Nothing failed" /></div>
          </div>
        </div>
      )}
    </>
  );
}

function WindowSwitch({ window }: { window: string }) {
  const navigate = useNavigate();
  return (
    <div role="group" aria-label="Period of the charts" className="flex h-8 rounded-md border border-strong bg-panel p-0.5">
      {Object.entries(WINDOWS).map(([name, { label }]) => (
        <button key={name} type="button" aria-pressed={name === window} onClick={() => void navigate({ to: "/", search: { window: name } as never, replace: true })}
          className="rounded px-2.5 text-[12.5px] text-soft hover:text-ink aria-pressed:bg-accent-soft aria-pressed:font-medium aria-pressed:text-accent">
          {label}
        </button>
      ))}
    </div>
  );
}

function Figures({ window }: { window: string }) {
  const { data, error, refetch } = useQuery({ ...statsQuery(WINDOWS[window]!.seconds), placeholderData: keepPreviousData });
  if (error && !data) return <Failure error={error} retry={() => void refetch()} />;
  return (
    <>
      <ByStatus stats={data} />
      <h2 className="sr-only">Last {WINDOWS[window]!.label}</h2>
      <Suspense fallback={<ChartSkeleton />}>{data ? <Charts stats={data} window={window} /> : <ChartSkeleton />}</Suspense>
    </>
  );
}

const TONE = { busy: "bg-busy", wait: "bg-wait", good: "bg-good", bad: "bg-bad", idle: "bg-strong" } as const;

/** How all runs stand; each figure is the way to the runs it counts. */
function ByStatus({ stats }: { stats: Stats | undefined }) {
  return (
    <nav aria-label="Runs by status" className="grid grid-cols-2 gap-px overflow-hidden rounded-lg border bg-line sm:grid-cols-3 lg:grid-cols-6">
      {GROUPS.map((group) => {
        const runs = stats ? inGroup(group, stats.runs_by_status) : null;
        return (
          <Link key={group.label} to="/runs" search={{ status: group.statuses.join(",") }} className="bg-panel px-4 py-3 -outline-offset-2 hover:bg-raised">
            <span className={`tabular block text-2xl leading-8 font-semibold tracking-tight ${runs === 0 ? "text-faint" : ""}`}>{runs === null ? "–" : count(runs)}</span>
            <span className="flex items-center gap-1.5 text-[12.5px] text-soft"><span className={`size-2 rounded-full ${TONE[group.tone]}`} aria-hidden />{group.label}</span>
          </Link>
        );
      })}
    </nav>
  );
}

function ChartSkeleton() {
  return <div role="status" aria-label="Loading" className="grid gap-4 md:grid-cols-3">{[0, 1, 2].map((one) => <div key={one} className="h-40 animate-pulse rounded-lg bg-raised" />)}</div>;
}
