import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { healthQuery, workersQuery } from "@/api/queries";
import type { Worker } from "@/api/types";
import { Panel } from "@/components/panel";
import { Plain } from "@/components/text";
import { count, duration } from "@/lib/format";

const LATE_S = 60;
const SHOWN = 5;

/** The queue and who works it off. */
export function Engine() {
  const { data: health } = useQuery(healthQuery);
  const workers = useQuery(workersQuery);
  const alive = workers.data?.items.filter((one) => one.state === "active" || one.state === "draining") ?? [];
  const slots = alive.reduce((sum, one) => sum + one.concurrency, 0);
  const busy = alive.reduce((sum, one) => sum + one.running, 0);
  const late = (health?.oldest_ready_s ?? 0) > LATE_S;
  return (
    <Panel title="Queue and workers" actions={<Link to="/workers" className="text-[12.5px] text-accent hover:underline">All workers</Link>}>
      <dl className="grid grid-cols-2 gap-x-4 gap-y-3 sm:grid-cols-4 xl:grid-cols-2">
        <Figure name="Ready">{health ? count(health.ready) : "–"}</Figure>
        <Figure name="Oldest ready" bad={late}>{health?.oldest_ready_s == null ? "–" : duration(health.oldest_ready_s)}</Figure>
        <Figure name="Scheduled">{health ? count(health.scheduled) : "–"}</Figure>
        <Figure name="Held">{health ? count(health.held) : "–"}</Figure>
      </dl>
      <div className="mt-4 border-t pt-3">
        {workers.data && !alive.length ? (
          <p className="text-bad">No worker is alive. Start one: <code className="font-mono text-[12.5px]">durable-agent worker</code></p>
        ) : (
          <>
            <p className="mb-2 flex justify-between text-soft"><span><span className="tabular font-medium text-ink">{alive.length}</span> active</span><span className="tabular">{busy} of {slots} slots</span></p>
            <ul className="flex flex-col gap-2">{alive.slice(0, SHOWN).map((one) => <li key={one.session}><Load worker={one} /></li>)}</ul>
            {alive.length > SHOWN && <p className="mt-2 text-[12.5px] text-soft">and {alive.length - SHOWN} more</p>}
          </>
        )}
      </div>
    </Panel>
  );
}

function Figure({ name, bad, children }: { name: string; bad?: boolean; children: ReactNode }) {
  return (
    <div className="flex flex-col-reverse">
      <dt className="text-[12.5px] text-soft">{name}</dt>
      <dd className={`tabular text-lg font-semibold tracking-tight ${bad ? "text-bad" : ""}`}>{children}</dd>
    </div>
  );
}

function Load({ worker }: { worker: Worker }) {
  const share = worker.concurrency ? Math.min(100, (worker.running / worker.concurrency) * 100) : 0;
  return (
    <div className="grid grid-cols-[minmax(0,1fr)_minmax(60px,2fr)_48px] items-center gap-3 text-[12.5px]">
      <span className="truncate" title={worker.host}><Plain text={worker.worker} />{worker.state === "draining" && <span className="text-wait"> draining</span>}</span>
      <span className="h-1.5 overflow-hidden rounded-full bg-idle-soft" aria-hidden><span className="block h-full rounded-full bg-busy transition-[width]" style={{ width: `${share}%` }} /></span>
      <span className="tabular text-right text-soft">{worker.running}/{worker.concurrency}</span>
    </div>
  );
}
