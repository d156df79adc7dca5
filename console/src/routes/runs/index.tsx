import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { ArrowRight, ArrowUp, Plus } from "lucide-react";
import { useCallback, useState } from "react";
import type { RunSummary } from "@/api/types";
import { Button, buttonClass } from "@/components/button";
import { Empty, Failure, Heading, Skeleton } from "@/components/panel";
import { DataTable, type Selection } from "@/components/table";
import { count, shortId } from "@/lib/format";
import { BulkBar, BulkResult, type Bulk } from "@/routes/runs/bulk-bar";
import { RUN_COLUMNS, RunCard, runTitle } from "@/routes/runs/columns";
import { namedRun, type Search } from "@/routes/runs/filter";
import { Filters } from "@/routes/runs/filters";
import { useRuns } from "@/routes/runs/live";

const idOf = (run: RunSummary) => run.id;
const labelOf = (run: RunSummary) => `Select ${runTitle(run)} ${shortId(run.id)}`;
const cardOf = (run: RunSummary) => <RunCard run={run} />;

export function Runs() {
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const [selection, setSelection] = useState<Selection>({});
  const [bulk, setBulk] = useState<Bulk | null>(null);
  const change = (changes: Partial<Search>) => {
    setSelection({});
    const next = Object.fromEntries(Object.entries({ ...search, ...changes }).filter(([, value]) => value));
    void navigate({ to: "/runs", search: next, replace: true });
  };
  const filtered = Object.values(search).some(Boolean);
  const named = namedRun(search.q);
  return (
    <>
      <Heading title="Runs">
        <Link to="/new" search={{}} className={buttonClass("primary")}><Plus className="size-4" aria-hidden />New run</Link>
      </Heading>
      <Filters search={search} onChange={change} />
      {named && (
        <Link to="/runs/$id" params={{ id: named }} search={{}} className="mb-4 flex items-center gap-2 rounded-lg border border-accent/40 bg-accent-soft px-4 py-2.5 font-medium text-accent">
          Open run <code className="truncate font-mono text-[12.5px]">{named}</code><ArrowRight className="ml-auto size-4 shrink-0" aria-hidden />
        </Link>
      )}
      {bulk && <BulkResult bulk={bulk} onClose={() => setBulk(null)} />}
      <RunList key={JSON.stringify(search)} search={search} filtered={filtered} selection={selection} onSelection={setSelection} onClear={() => change({ status: "", graph: "", agent: "", q: "", since: "", until: "" })} onBulk={setBulk} />
    </>
  );
}

interface ListProps {
  search: Search;
  filtered: boolean;
  selection: Selection;
  onSelection: (selection: Selection) => void;
  onClear: () => void;
  onBulk: (bulk: Bulk) => void;
}

function RunList({ search, filtered, selection, onSelection, onClear, onBulk }: ListProps) {
  const { rows, list, news, onTop, error } = useRuns(search);
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const onEnd = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  const chosen = rows.filter((run) => selection[run.id]);
  if (list.isPending) return <Skeleton rows={10} />;
  if (!rows.length) return error ? <Failure error={error} retry={() => void list.refetch()} /> : <NoRuns filtered={filtered} onClear={onClear} />;
  return (
    <>
      {error !== null && <div className="mb-3"><Failure error={error} retry={() => void list.refetch()} /></div>}
      {news > 0 && (
        <div className="sticky top-12 z-20 h-0 text-center">
          <Button look="primary" size="small" className="shadow-lg" icon={<ArrowUp className="size-3.5" aria-hidden />} onClick={() => document.getElementById("main")?.scrollTo({ top: 0 })}>
            {news >= 100 ? "Many new runs" : `${news} new ${news === 1 ? "run" : "runs"}`}
          </Button>
        </div>
      )}
      <DataTable label="Runs" rows={rows} columns={RUN_COLUMNS} rowId={idOf} card={cardOf} selection={selection} onSelection={onSelection} selectLabel={labelOf} more={hasNextPage} onEnd={onEnd} onTop={onTop} />
      <p role="status" className="py-3 text-center text-[12.5px] text-soft">
        {isFetchingNextPage ? "Loading more …" : hasNextPage ? "" : `${count(rows.length)} ${rows.length === 1 ? "run" : "runs"}`}
      </p>
      {chosen.length > 0 && <BulkBar runs={chosen} onClear={() => onSelection({})} onDone={(bulk) => { onSelection({}); onBulk(bulk); }} />}
    </>
  );
}

function NoRuns({ filtered, onClear }: { filtered: boolean; onClear: () => void }) {
  return (
    <div className="rounded-lg border bg-panel">
      {filtered ? (
        <Empty title="No run matches"><p className="mb-3">Search looks for words of the goal. A longer period or another status may find it.</p><Button onClick={onClear}>Clear filters</Button></Empty>
      ) : (
        <Empty title="No runs yet"><p className="mb-3">Start one from a graph, an agent or steps of your own.</p><Link to="/new" search={{}} className={buttonClass("primary")}>New run</Link></Empty>
      )}
    </div>
  );
}
