import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { get, queryOf } from "@/api/client";
import type { Page, RunStatus, RunSummary } from "@/api/types";
import { Empty, Failure, Panel, Skeleton } from "@/components/panel";
import { Status } from "@/components/status";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { runTitle } from "@/routes/runs/columns";

const SHOWN = 8;

/** The first few runs, all or of some statuses; the whole list is a link away. */
export const latestQuery = (status: readonly RunStatus[] = []) => ({
  queryKey: ["runs", "latest", status.join(",")],
  queryFn: ({ signal }: { signal: AbortSignal }) => get<Page<RunSummary>>(`/runs${queryOf({ status, limit: SHOWN })}`, signal),
});

interface Props { title: string; status?: readonly RunStatus[]; empty: string }

export function Latest({ title, status = [], empty }: Props) {
  const { data, error, refetch } = useQuery(latestQuery(status));
  return (
    <Panel flush title={title} actions={<Link to="/runs" search={status.length ? { status: status.join(",") } : {}} className="text-[12.5px] text-accent hover:underline">{status.length ? "All failures" : "All runs"}</Link>}>
      {error ? <div className="p-4"><Failure error={error} retry={() => void refetch()} /></div> : !data ? <div className="p-3"><Skeleton rows={4} /></div> : !data.items.length ? <Empty title={empty} /> : (
        <ul className="divide-y">
          {data.items.map((run) => <li key={run.id}><Line run={run} /></li>)}
        </ul>
      )}
    </Panel>
  );
}

function Line({ run }: { run: RunSummary }) {
  const why = typeof run.error?.reason === "string" ? run.error.reason.replaceAll("_", " ") : null;
  const where = typeof run.error?.step === "string" ? run.error.step : null;
  return (
    <Link to="/runs/$id" params={{ id: run.id }} search={{}} className="flex items-center gap-3 px-4 py-2.5 -outline-offset-2 hover:bg-raised/60">
      <span className="min-w-0 flex-1">
        <span className="block truncate font-medium"><Plain text={runTitle(run)} /></span>
        <span className="block truncate text-[12.5px] text-soft">
          <Time at={run.finished_at ?? run.created_at} />
          {why && <> · {why}{where && <> in <Plain text={where} /></>}</>}
          {!why && run.goal && (run.graph ?? run.agent) && <> · <Plain text={run.graph ?? run.agent ?? ""} /></>}
        </span>
      </span>
      <Status status={run.status} small />
    </Link>
  );
}
