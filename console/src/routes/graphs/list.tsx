import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { Play } from "lucide-react";
import type { ReactNode } from "react";
import { graphsQuery } from "@/api/queries";
import type { GraphSummary } from "@/api/types";
import { buttonClass } from "@/components/button";
import { Input } from "@/components/field";
import { Empty, Failure, Heading, Panel, Skeleton } from "@/components/panel";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { useSearchText } from "@/routes/agents/search";

const MANY = 8;

export function Graphs(): ReactNode {
  const { data, error, refetch } = useQuery({ ...graphsQuery, refetchInterval: 15_000 });
  const [search, change] = useSearchText();
  const q = search.q ?? "";
  const shown = data?.items.filter((graph) => graph.name.toLowerCase().includes(q.trim().toLowerCase())) ?? [];
  return (
    <>
      <Heading title="Graphs" note="What workers registered: steps and the order they go in, ready to be started." />
      {error && <div className="mb-4"><Failure error={error} retry={() => void refetch()} /></div>}
      {!data && !error && <Skeleton />}
      {data && (data.items.length > MANY || q) && (
        <div className="mb-3 max-w-sm"><Input label="Filter the graphs" hideLabel type="search" placeholder="Name" defaultValue={q} onChange={(event) => change({ q: event.target.value })} /></div>
      )}
      {data && (
        <Panel flush>
          {!data.items.length && <Empty title="No graph yet">A worker registers those of the modules it imports: <code className="font-mono text-ink">durable-agent worker workers.examples.triage</code></Empty>}
          {data.items.length > 0 && !shown.length && <Empty title="No graph is called that">Clear the filter to see all {data.items.length}.</Empty>}
          <ul className="divide-y">{shown.map((graph) => <Row key={graph.name} graph={graph} />)}</ul>
        </Panel>
      )}
    </>
  );
}

function Row({ graph }: { graph: GraphSummary }) {
  return (
    <li className="relative flex flex-wrap items-center gap-x-6 gap-y-1 px-4 py-3 hover:bg-raised/60">
      <div className="min-w-0 basis-full sm:flex-1 sm:basis-48">
        <Link to="/graphs/$name" params={{ name: graph.name }} className="font-medium break-words after:absolute after:inset-0"><Plain text={graph.name} /></Link>
        <p className="text-[12.5px] text-soft">registered <Time at={graph.registered_at} /> · <code className="font-mono">{graph.version.slice(0, 8)}</code></p>
      </div>
      <span className="tabular text-[12.5px] text-soft sm:w-16">{graph.steps === 1 ? "1 step" : `${graph.steps} steps`}</span>
      <span className="text-[12.5px] text-soft sm:w-24">{graph.input_schema ? "input by a form" : "any input"}</span>
      <Link to="/new" search={{ graph: graph.name }} aria-label={`Start a run of ${graph.name}`} className={`relative ml-auto ${buttonClass("plain", "small")}`}><Play className="size-3.5" aria-hidden />Start</Link>
    </li>
  );
}
