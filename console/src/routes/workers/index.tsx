import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { workersQuery } from "@/api/queries";
import type { Worker } from "@/api/types";
import { Empty, Failure, Heading, Panel, Skeleton } from "@/components/panel";
import { Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { count } from "@/lib/format";
import { useSearchText } from "@/routes/agents/search";
import { WorkerCard } from "@/routes/workers/card";
import { inOrder, isOver, WORKER } from "@/routes/workers/order";

export function Workers(): ReactNode {
  const { data, error, refetch, dataUpdatedAt } = useQuery(workersQuery);
  const workers = inOrder(data?.items ?? []);
  const over = workers.filter((worker) => isOver(worker, workers));
  const here = workers.filter((worker) => !over.includes(worker));
  return (
    <>
      <Heading title="Workers" note={data && <Summary workers={here} />} />
      {error && <div className="mb-4"><Failure error={error} retry={() => void refetch()} /></div>}
      {!data && !error && <Skeleton />}
      {data && !here.length && (
        <Panel>
          <Empty title="No worker is alive">
            Runs are kept and wait. Start one with <code className="font-mono text-ink">durable-agent worker</code> and the modules that define your steps.
          </Empty>
        </Panel>
      )}
      <ul className="grid gap-4 md:grid-cols-2 2xl:grid-cols-3">
        {here.map((worker) => <li key={worker.session} className="min-w-0"><WorkerCard worker={worker} readAt={dataUpdatedAt} /></li>)}
      </ul>
      {over.length > 0 && <Over workers={over} />}
    </>
  );
}

function Summary({ workers }: { workers: Worker[] }) {
  const living = workers.filter((worker) => worker.state !== "lost");
  const running = living.reduce((sum, worker) => sum + worker.running, 0);
  const slots = living.reduce((sum, worker) => sum + worker.concurrency, 0);
  return <span className="tabular">{living.length} alive · {count(running)} of {count(slots)} slots in use</span>;
}

/** Those that are gone: folded away, for they need nobody. */
function Over({ workers }: { workers: Worker[] }) {
  const [search, change] = useSearchText();
  const open = search.gone !== undefined;
  return (
    <section className="mt-6">
      <h2>
        <button type="button" aria-expanded={open} onClick={() => change({ gone: open ? undefined : "yes" })} className="rounded text-soft hover:text-ink">
          {open ? "Hide" : "Show"} {workers.length} that {workers.length === 1 ? "is" : "are"} gone
        </button>
      </h2>
      {open && (
        <ul className="mt-2 divide-y rounded-lg border bg-panel">
          {workers.map((worker) => (
            <li key={worker.session} className="flex flex-wrap items-center gap-x-4 gap-y-1 px-4 py-2">
              <span className="min-w-0 flex-1 basis-32 truncate"><Plain text={worker.worker} /> <span className="text-[12.5px] text-soft"><Plain text={worker.host} /> · pid {worker.os_pid}</span></span>
              <Tag tone={worker.state === "lost" ? WORKER.lost.tone : "idle"}>{worker.state}</Tag>
              <span className="w-28 text-right text-[12.5px] text-soft"><Time at={worker.stopped_at ?? worker.beat_at} /></span>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
