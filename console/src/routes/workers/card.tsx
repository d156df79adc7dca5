import { TriangleAlert } from "lucide-react";
import type { Worker } from "@/api/types";
import { Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { Took, useNow } from "@/components/time";
import { duration } from "@/lib/format";
import { Bar } from "@/routes/workers/bar";
import { LAG_WARN_MS, LATE_S, stateOf, WORKER } from "@/routes/workers/order";

/** One worker session: how it is, how much it does, what it can do. `readAt` is when its figures were read. */
export function WorkerCard({ worker, readAt }: { worker: Worker; readAt: number }) {
  // The server's clock says how old the beat was; ours only how long ago it said so.
  const age = worker.beat_age_s + Math.max(0, (useNow() - readAt) / 1000);
  const state = stateOf(worker, age);
  const { label, tone, why } = WORKER[state];
  const calm = state === "active" || state === "draining";
  return (
    <article aria-label={worker.worker} className={`flex h-full flex-col gap-4 rounded-lg border bg-panel p-4 ${tone === "bad" ? "border-bad/40" : ""}`}>
      <header className="flex items-start justify-between gap-3">
        <div className="min-w-0">
          <h2 className="truncate font-semibold"><Plain text={worker.worker} /></h2>
          <p className="truncate text-[12.5px] text-soft"><Plain text={worker.host} /> · pid {worker.os_pid} · <Plain text={worker.version} /></p>
        </div>
        <span title={why}><Tag tone={tone}>{!calm && <TriangleAlert className="size-3.5" aria-hidden />}{label}</Tag></span>
      </header>
      {!calm && <p className="text-[12.5px] text-soft">{why}</p>}
      <Load worker={worker} />
      <dl className="grid grid-cols-3 gap-3">
        <Figure name="Last beat" value={state === "lost" ? "none" : age < 1 ? "now" : `${age < 100 ? `${Math.round(age)} s` : duration(age)} ago`} warn={age > LATE_S} />
        <Figure name="Loop lag" value={duration(worker.loop_lag_ms / 1000)} warn={worker.loop_lag_ms > LAG_WARN_MS} />
        <Figure name="Up" value={<Took from={worker.started_at} to={worker.stopped_at} />} />
      </dl>
      <div className="mt-auto flex flex-col gap-2 border-t pt-3 text-[12.5px]">
        <p><span className="text-soft">Queues </span><Plain text={worker.queues.join(", ")} /></p>
        <Offers offers={worker.offers} />
      </div>
    </article>
  );
}

function Load({ worker }: { worker: Worker }) {
  const text = `${worker.running} of ${worker.concurrency} steps`;
  return (
    <div className="flex flex-col gap-1.5">
      <p className="tabular flex justify-between text-[12.5px]"><span className="text-soft">Load</span><span>{text}</span></p>
      <Bar label={`Load of ${worker.worker}`} text={text} value={worker.running} cap={worker.concurrency} tone="busy" />
    </div>
  );
}

function Figure({ name, value, warn }: { name: string; value: React.ReactNode; warn?: boolean }) {
  return (
    <div className="min-w-0">
      <dt className="text-[12.5px] text-soft">{name}</dt>
      <dd className={`tabular truncate font-medium ${warn ? "text-wait" : ""}`}>{warn && <TriangleAlert className="mr-1 inline size-3.5" role="img" aria-label="warning" />}{value}</dd>
    </div>
  );
}

function Offers({ offers }: { offers: string[] }) {
  return (
    <details>
      <summary className="cursor-pointer rounded text-soft hover:text-ink">Offers {offers.length === 1 ? "1 step" : `${offers.length} steps`}</summary>
      <ul className="mt-2 flex flex-wrap gap-1.5">
        {offers.map((offer) => <li key={offer} className="rounded border px-1.5 font-mono text-xs leading-5 break-all"><Plain text={offer} /></li>)}
      </ul>
    </details>
  );
}
