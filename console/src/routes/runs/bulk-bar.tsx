import { useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { Ban, RotateCcw, X } from "lucide-react";
import { useState } from "react";
import { call } from "@/api/client";
import type { RunSummary } from "@/api/types";
import { Button, IconButton } from "@/components/button";
import { Ask } from "@/components/dialog";
import { Input } from "@/components/field";
import { Plain } from "@/components/text";
import { shortId } from "@/lib/format";
import { FINAL } from "@/live/apply";
import { forEach, summary, type Outcome } from "@/routes/runs/bulk";

export interface Bulk { verb: string; outcomes: Outcome[] }

interface Props {
  runs: RunSummary[];
  onClear: () => void;
  onDone: (bulk: Bulk) => void;
}

const runs = (count: number) => `${count} ${count === 1 ? "run" : "runs"}`;

/** What can be done with the runs that are selected; each button says how many of them it concerns. */
export function BulkBar({ runs: chosen, onClear, onDone }: Props) {
  const client = useQueryClient();
  const [asking, setAsking] = useState<"cancel" | "redrive" | null>(null);
  const [reason, setReason] = useState("");
  const open = chosen.filter((run) => !FINAL.has(run.status)).map((run) => run.id);
  const failed = chosen.filter((run) => run.status === "failed").map((run) => run.id);
  const finish = (verb: string, outcomes: Outcome[]) => {
    void client.invalidateQueries({ predicate: ({ queryKey }) => ["runs", "dead-letters", "healthz", "waits"].includes(String(queryKey[0])) });
    onDone({ verb, outcomes });
  };
  const cancel = async () => finish("cancelled", await forEach(open, (id) => call("POST", `/runs/${id}/cancel`, reason.trim() ? { reason: reason.trim() } : {})));
  const redrive = async () => finish("given another chance", await forEach(failed, (id) => call("POST", "/dead-letters/redrive", { run_id: id })));
  return (
    <div role="region" aria-label="Selected runs" className="sticky bottom-4 z-20 mx-auto flex max-w-full flex-wrap items-center gap-2 rounded-xl border border-strong bg-panel py-2 pr-2 pl-4 shadow-xl">
      <span className="tabular font-medium whitespace-nowrap">{chosen.length} selected</span>
      <Button size="small" look="danger" disabled={!open.length} icon={<Ban className="size-3.5" aria-hidden />} onClick={() => setAsking("cancel")}>Cancel {open.length}</Button>
      <Button size="small" disabled={!failed.length} icon={<RotateCcw className="size-3.5" aria-hidden />} onClick={() => setAsking("redrive")}>Redrive {failed.length}</Button>
      <IconButton label="Clear the selection" onClick={onClear}><X className="size-4" aria-hidden /></IconButton>
      {asking === "cancel" && (
        <Ask title={`Cancel ${runs(open.length)}?`} text="What they are doing is stopped within a second; what they did is undone where a step says how. A cancelled run does not go on." action={`Cancel ${runs(open.length)}`} run={cancel} onClose={() => setAsking(null)}>
          <Input label="Reason (optional)" value={reason} onChange={(event) => setReason(event.target.value)} hint="Recorded in the history of each run." />
        </Ask>
      )}
      {asking === "redrive" && (
        <Ask title={`Redrive ${runs(failed.length)}?`} look="primary" text="Their dead letters get as many attempts again as they had, and go on from what is recorded; nothing that succeeded is done twice." action={`Redrive ${runs(failed.length)}`} run={redrive} onClose={() => setAsking(null)} />
      )}
    </div>
  );
}

/** What became of it, in a line, and what was refused, by reason. */
export function BulkResult({ bulk, onClose, of = "run" }: { bulk: Bulk; onClose: () => void; of?: string }) {
  const { done, refused } = summary(bulk.outcomes);
  return (
    <div role="status" className={`mb-4 flex items-start gap-3 rounded-lg border px-4 py-2.5 ${refused.length ? "border-wait/40 bg-wait-soft" : "border-good/30 bg-good-soft"}`}>
      <div className="min-w-0 flex-1">
        <p className={`font-medium ${refused.length ? "text-wait" : "text-good"}`}>
          {done} {done === 1 ? of : `${of}s`} {bulk.verb}{refused.length > 0 && `, ${bulk.outcomes.length - done} not`}
        </p>
        {refused.length > 0 && (
          <ul className="mt-1 flex flex-col gap-1 text-[12.5px] text-ink">
            {refused.slice(0, 8).map(({ why, ids }) => (
              <li key={why} className="break-words">
                <span className="tabular font-medium">{ids.length} ×</span> <Plain text={why} />{" "}
                {ids.slice(0, 5).map((id) => /^[0-9a-f-]{36}/.test(id) && <Link key={id} to="/runs/$id" params={{ id: id.slice(0, 36) }} search={{}} className="mr-1 font-mono underline">{shortId(id.slice(0, 36))}</Link>)}
              </li>
            ))}
          </ul>
        )}
      </div>
      <IconButton label="Close this message" onClick={onClose}><X className="size-4" aria-hidden /></IconButton>
    </div>
  );
}
