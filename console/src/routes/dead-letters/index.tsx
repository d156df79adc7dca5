import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { RotateCcw, X } from "lucide-react";
import { useCallback, useMemo, useState } from "react";
import { call } from "@/api/client";
import { deadLettersQuery } from "@/api/queries";
import type { DeadLetter } from "@/api/types";
import { Button, IconButton } from "@/components/button";
import { Ask } from "@/components/dialog";
import { Input } from "@/components/field";
import { Empty, Failure, Heading, Skeleton } from "@/components/panel";
import { DataTable, type Selection } from "@/components/table";
import { Plain } from "@/components/text";
import { count } from "@/lib/format";
import { forEach } from "@/routes/runs/bulk";
import { BulkResult, type Bulk } from "@/routes/runs/bulk-bar";
import { LetterCard, letterColumns } from "@/routes/dead-letters/columns";
import { extraAttempts, letterId, meaning, reasonText, redriveAll, type Search } from "@/routes/dead-letters/redrive";

/** What is asked before: these, or all that match. */
type Asked = { letters: DeadLetter[] } | { all: true };
const NONE: DeadLetter[] = [];

export function DeadLetters() {
  const search = useSearch({ strict: false }) as Search;
  const navigate = useNavigate();
  const list = useInfiniteQuery(deadLettersQuery(search));
  const [selection, setSelection] = useState<Selection>({});
  const [asked, setAsked] = useState<Asked | null>(null);
  const [bulk, setBulk] = useState<Bulk | null>(null);
  const letters = useMemo(() => list.data?.pages.flatMap((page) => page.items) ?? NONE, [list.data]);
  const counts = list.data?.pages[0]?.counts ?? {};
  const columns = useMemo(() => letterColumns((letter) => setAsked({ letters: [letter] })), []);
  const chosen = letters.filter((one) => selection[letterId(one)]);
  const change = (next: Search) => {
    setSelection({});
    void navigate({ to: "/dead-letters", search: Object.fromEntries(Object.entries(next).filter(([, value]) => value)), replace: true });
  };
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const onEnd = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage]);
  const all = Object.values(counts).reduce((sum, one) => sum + one, 0);
  const finish = (done: Bulk) => {
    setSelection({});
    setBulk(done);
  };
  return (
    <>
      <Heading title="Dead letters" note="Steps that gave up. Mend the cause, then let them go on from what is recorded.">
        {letters.length > 0 && <Button icon={<RotateCcw className="size-4" aria-hidden />} onClick={() => setAsked({ all: true })}>{search.reason || search.tool ? "Redrive all that match" : "Redrive all"}</Button>}
      </Heading>
      {all > 0 && <Chips counts={counts} all={all} search={search} onChange={change} />}
      {bulk && <BulkResult bulk={bulk} of="step" onClose={() => setBulk(null)} />}
      {list.isPending ? <Skeleton rows={8} /> : list.error && !letters.length ? <Failure error={list.error} retry={() => void list.refetch()} /> : !letters.length ? (
        <div className="rounded-lg border bg-panel">
          {search.reason || search.tool ? <Empty title="No dead letter matches"><Button onClick={() => change({})}>Show all</Button></Empty> : <Empty title="Nothing gave up">A step that fails as often as it may, or whose workers die again and again, is kept here until somebody redrives it.</Empty>}
        </div>
      ) : (
        <>
          {list.error && <div className="mb-3"><Failure error={list.error} retry={() => void list.refetch()} /></div>}
          <DataTable label="Dead letters" rows={letters} columns={columns} rowId={letterId} rowHeight={60} cardHeight={116} selection={selection} onSelection={setSelection}
            selectLabel={(one) => `Select ${one.step} of run ${one.run_id.slice(-8)}`} more={hasNextPage} onEnd={onEnd}
            card={(letter) => <LetterCard letter={letter} onRedrive={() => setAsked({ letters: [letter] })} />} />
          {chosen.length > 0 && (
            <div role="region" aria-label="Selected dead letters" className="sticky bottom-4 z-20 mx-auto mt-3 flex items-center gap-2 rounded-xl border border-strong bg-panel py-2 pr-2 pl-4 shadow-xl">
              <span className="tabular font-medium">{chosen.length} selected</span>
              <Button size="small" icon={<RotateCcw className="size-3.5" aria-hidden />} onClick={() => setAsked({ letters: chosen })}>Redrive {chosen.length}</Button>
              <IconButton label="Clear the selection" onClick={() => setSelection({})}><X className="size-4" aria-hidden /></IconButton>
            </div>
          )}
        </>
      )}
      {asked && <AskRedrive asked={asked} search={search} onClose={() => setAsked(null)} onDone={finish} />}
    </>
  );
}

function Chips({ counts, all, search, onChange }: { counts: Record<string, number>; all: number; search: Search; onChange: (search: Search) => void }) {
  const reasons = Object.entries(counts).sort(([, a], [, b]) => b - a);
  const chip = (key: string, label: string, number: number, on: boolean, next: Search, title?: string) => (
    <button key={key} type="button" aria-pressed={on} title={title} onClick={() => onChange(next)}
      className="inline-flex h-8 items-center gap-2 rounded-full border bg-panel px-3 hover:border-strong aria-pressed:border-accent aria-pressed:bg-accent-soft aria-pressed:text-accent">
      <Plain text={label} /><span className="tabular text-[12.5px] font-semibold">{count(number)}</span>
    </button>
  );
  return (
    <div role="group" aria-label="By reason" className="mb-4 flex flex-wrap gap-2">
      {chip("", "All", all, !search.reason, { ...search, reason: "" })}
      {reasons.map(([reason, number]) => chip(reason, reasonText(reason), number, search.reason === reason, { ...search, reason: search.reason === reason ? "" : reason }, meaning(reason)))}
      {search.tool && (
        <button type="button" onClick={() => onChange({ ...search, tool: "" })} className="inline-flex h-8 items-center gap-1.5 rounded-full border border-accent bg-accent-soft px-3 text-accent">
          tool: <Plain text={search.tool} /><X className="size-3.5" aria-hidden /><span className="sr-only">remove</span>
        </button>
      )}
    </div>
  );
}

interface AskProps {
  asked: Asked;
  search: Search;
  onClose: () => void;
  onDone: (bulk: Bulk) => void;
}

function AskRedrive({ asked, search, onClose, onDone }: AskProps) {
  const client = useQueryClient();
  const [text, setText] = useState("");
  const extra = extraAttempts(text);
  const verb = "given another chance";
  const one = "letters" in asked && asked.letters.length === 1 ? asked.letters[0]! : null;
  const run = async () => {
    if (extra === undefined) throw new Error("Attempts are a whole number from 1 to 1,000.");
    const more = extra ? { extra_attempts: extra } : {};
    if ("all" in asked) {
      const { redriven } = await call<{ redriven: { run_id: string; step: string }[] }>("POST", "/dead-letters/redrive", redriveAll(search, extra));
      onDone({ verb, outcomes: redriven.map(({ run_id, step }) => ({ id: `${run_id}/${step}`, error: null })) });
    } else {
      const known = new Map(asked.letters.map((letter) => [letterId(letter), letter]));
      const act = (id: string) => call("POST", "/dead-letters/redrive", { run_id: known.get(id)!.run_id, step: known.get(id)!.step, ...more });
      const outcomes = await forEach([...known.keys()], act);
      if (one && outcomes[0]?.error) throw new Error(outcomes[0].error);
      onDone({ verb, outcomes });
    }
    void client.invalidateQueries({ predicate: ({ queryKey }) => ["dead-letters", "runs", "healthz"].includes(String(queryKey[0])) });
  };
  const title = one ? `Redrive ${one.step}?` : "letters" in asked ? `Redrive ${asked.letters.length} steps?` : search.reason || search.tool ? "Redrive all that match?" : "Redrive all dead letters?";
  const text_ = "all" in asked
    ? `Up to 1,000 at a time, the oldest first${search.reason ? `, of reason “${reasonText(search.reason)}”` : ""}${search.tool ? `, of tool “${search.tool}”` : ""}. Each goes on from its last recorded effect; what had succeeded is not done again.`
    : "It goes on from its last recorded effect; what had succeeded is not done again. What the run's failure had cancelled goes on too.";
  return (
    <Ask title={title} look="primary" text={text_} action="Redrive" run={run} onClose={onClose}>
      <Input label="Attempts more (optional)" inputMode="numeric" value={text} onChange={(event) => setText(event.target.value)} error={extra === undefined ? "A whole number from 1 to 1,000." : null} hint="Empty: as many as the step had." />
    </Ask>
  );
}
