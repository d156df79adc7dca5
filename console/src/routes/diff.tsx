import { useQuery } from "@tanstack/react-query";
import { getRouteApi, Link, useNavigate } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { ArrowLeftRight, ChevronRight, Equal, EqualNot } from "lucide-react";
import { useEffect, useMemo, useRef, useState, type ReactNode, type RefObject } from "react";
import { Problem } from "@/api/client";
import { diffQuery, runQuery } from "@/api/queries";
import type { Diff, DiffSide, DiffStep } from "@/api/types";
import { Button } from "@/components/button";
import { Checkbox } from "@/components/field";
import { Json } from "@/components/json";
import { Empty, Failure, Heading, Panel, Skeleton } from "@/components/panel";
import { Status, Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { count, duration, money, shortId } from "@/lib/format";

const route = getRouteApi("/runs/$id/diff/$other");
type Compared = Diff["steps"][number];

/** Two runs side by side: what they cost, where they part, what each step came to. */
export function DiffScreen() {
  const { id, other } = route.useParams();
  const navigate = useNavigate();
  const { data, error, refetch } = useQuery(diffQuery(id, other));
  const swap = () => void navigate({ to: "/runs/$id/diff/$other", params: { id: other, other: id } });
  return (
    <>
      <Heading title="Compare two runs" note="Steps are compared by name; the first run stands on the left."><Button icon={<ArrowLeftRight className="size-4" aria-hidden />} onClick={swap}>Swap</Button></Heading>
      {error instanceof Problem && error.status === 404 ? <Empty title="One of the runs is not there"><Plain text={error.detail} /></Empty>
        : error ? <Failure error={error} retry={() => void refetch()} />
        : !data ? <Skeleton rows={6} /> : <Compare diff={data} />}
    </>
  );
}

function Compare({ diff }: { diff: Diff }) {
  const [only, setOnly] = useState(!diff.same && diff.steps.length > 12);
  const shown = useMemo(() => (only ? diff.steps.filter((step) => !step.same) : diff.steps), [diff, only]);
  const differing = diff.steps.filter((step) => !step.same).length;
  const list = useRef<StepsHandle>(null);
  return (
    <div className="flex flex-col gap-4">
      <Verdict diff={diff} onGo={(step) => list.current?.go(step)} />
      <Sides a={diff.a} b={diff.b} />
      <Panel flush title={<>Steps <span className="font-normal text-soft">· {differing} of {diff.steps.length} differ</span></>} actions={<Checkbox label="Only what differs" checked={only} onChange={(event) => setOnly(event.target.checked)} />}>
        {shown.length ? <Steps key={String(only)} steps={shown} first={diff.first?.step ?? null} handle={list} /> : <Empty title="Nothing differs">Every step of both runs came to the same.</Empty>}
      </Panel>
    </div>
  );
}

function Verdict({ diff, onGo }: { diff: Diff; onGo: (step: string) => void }) {
  const Picture = diff.same ? Equal : EqualNot;
  return (
    <div role="status" className={`flex flex-wrap items-center gap-3 rounded-lg border px-4 py-3 ${diff.same ? "border-good/30 bg-good-soft" : "border-wait/30 bg-wait-soft"}`}>
      <Picture className={`size-5 ${diff.same ? "text-good" : "text-wait"}`} aria-hidden />
      {diff.first === null ? <p className="font-medium">Both runs came to the same.</p> : (
        <p className="min-w-0 flex-1 break-words">
          <span className="font-medium">They part at <button type="button" className="underline underline-offset-2" onClick={() => onGo(diff.first!.step)}><Plain text={diff.first.step} /></button></span>
          <span className="text-soft">: <Plain text={diff.first.difference} /></span>
        </p>
      )}
    </div>
  );
}

const FIGURES: { name: string; of: (side: DiffSide) => number | null; show: (value: number) => string }[] = [
  { name: "Duration", of: (side) => side.seconds, show: duration },
  { name: "Calls of models", of: (side) => side.calls, show: count },
  { name: "Tokens", of: (side) => side.tokens, show: count },
  { name: "Cost", of: (side) => side.microusd, show: money },
];

/** Write by how much the second is more or less than the first; nothing where that says nothing. */
export function change(a: number | null, b: number | null): string {
  if (a === null || b === null || a === b) return "";
  if (a === 0) return "new";
  const percent = ((b - a) / a) * 100;
  if (Math.abs(percent) >= 1000) return `× ${Math.round(b / a)}`;
  return `${percent > 0 ? "+" : "−"}${Math.abs(percent) < 1 ? "<1" : Math.round(Math.abs(percent))} %`;
}

function Sides({ a, b }: { a: DiffSide; b: DiffSide }) {
  return (
    <div className="overflow-x-auto rounded-lg border bg-panel" tabIndex={0} role="group" aria-label="Figures of both runs">
      <table className="w-full text-left">
        <thead><tr className="border-b [&>th]:px-4 [&>th]:py-2.5 [&>th]:align-top [&>th]:font-normal"><th scope="col"><span className="sr-only">Figure</span></th><RunHead side={a} /><RunHead side={b} /><th scope="col" className="text-right text-soft max-sm:hidden">Change</th></tr></thead>
        <tbody className="divide-y">
          {FIGURES.map(({ name, of, show }) => {
            const [one, two] = [of(a), of(b)];
            return (
              <tr key={name} className="[&>*]:px-4 [&>*]:py-1.5">
                <th scope="row" className="font-normal text-soft">{name}</th>
                <td className="tabular">{one === null ? "–" : show(one)}</td>
                <td className="tabular">{two === null ? "–" : show(two)}</td>
                <td className="tabular text-right text-soft max-sm:hidden">{change(one, two)}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function RunHead({ side }: { side: DiffSide }) {
  const { data } = useQuery(runQuery(side.run_id));
  return (
    <th scope="col">
      <Link to="/runs/$id" params={{ id: side.run_id }} className="font-medium text-accent hover:underline"><Plain text={data?.goal ?? data?.graph ?? data?.agent ?? "Run"} /></Link>
      <span className="mt-1 flex flex-wrap items-center gap-2"><Status status={side.status} small /><code className="font-mono text-[12px] text-soft">{shortId(side.run_id)}</code></span>
    </th>
  );
}

interface StepsHandle { go: (step: string) => void }

function Steps({ steps, first, handle }: { steps: Compared[]; first: string | null; handle: RefObject<StepsHandle | null> }) {
  const scroller = useRef<HTMLDivElement>(null);
  const [open, setOpen] = useState<ReadonlySet<string>>(() => new Set(first ? [first] : []));
  const virtual = useVirtualizer({ count: steps.length, getScrollElement: () => scroller.current, estimateSize: () => 45, overscan: 8, getItemKey: (index) => steps[index]!.step });
  useEffect(() => {
    handle.current = {
      go: (step) => {
        setOpen((before) => new Set(before).add(step));
        virtual.scrollToIndex(steps.findIndex((one) => one.step === step), { align: "start" });
      },
    };
  }, [handle, steps, virtual]);
  const toggle = (step: string) => setOpen((before) => {
    const after = new Set(before);
    if (!after.delete(step)) after.add(step);
    return after;
  });
  return (
    <div ref={scroller} tabIndex={0} role="group" aria-label="Steps" className="max-h-[70dvh] overflow-auto">
      <ol className="relative" style={{ height: virtual.getTotalSize() }}>
        {virtual.getVirtualItems().map((item) => {
          const one = steps[item.index]!;
          return (
            <li key={item.key} data-index={item.index} ref={virtual.measureElement} className="absolute inset-x-0 border-b" style={{ transform: `translateY(${item.start}px)` }}>
              <Row one={one} open={open.has(one.step)} first={one.step === first} onToggle={() => toggle(one.step)} />
            </li>
          );
        })}
      </ol>
    </div>
  );
}

function Row({ one, open, first, onToggle }: { one: Compared; open: boolean; first: boolean; onToggle: () => void }) {
  return (
    <div data-step={one.step} data-same={one.same} className={one.same ? "" : "border-l-2 border-l-wait"}>
      <h3>
        <button type="button" aria-expanded={open} onClick={onToggle} className="flex w-full flex-wrap items-center gap-x-3 gap-y-1 px-3 py-2.5 text-left hover:bg-raised">
          <ChevronRight className={`size-4 shrink-0 text-soft transition-transform ${open ? "rotate-90" : ""}`} aria-hidden />
          <span className="min-w-0 truncate font-medium"><Plain text={one.step} /></span>
          {first && <Tag tone="wait">the first</Tag>}
          <span className={`min-w-0 text-[12.5px] break-words sm:ml-auto ${one.same ? "text-soft" : "text-wait"}`}>{one.same ? "same" : <Plain text={one.difference ?? "differs"} />}</span>
        </button>
      </h3>
      {open && (
        <div className="grid gap-3 px-3 pb-4 md:grid-cols-2 md:pl-10">
          <Side title="First" step={one.a} />
          <Side title="Second" step={one.b} />
        </div>
      )}
    </div>
  );
}

function Side({ title, step }: { title: string; step: DiffStep | null }): ReactNode {
  if (!step) return <div className="flex flex-col gap-1.5"><h4 className="text-[12.5px] font-semibold text-soft">{title}</h4><p className="rounded-md border border-dashed px-3 py-2 text-soft">The step is not in this run.</p></div>;
  return (
    <div className="flex min-w-0 flex-col gap-1.5">
      <h4 className="flex flex-wrap items-center gap-x-3 text-[12.5px] font-semibold text-soft">
        {title}
        <Status status={step.status} small />
        <span className="tabular font-normal">{[step.seconds === null ? null : duration(step.seconds), step.attempts > 1 ? `${step.attempts} attempts` : null, step.tokens ? `${count(step.tokens)} tokens` : null, step.microusd ? money(step.microusd) : null].filter(Boolean).join(" · ")}</span>
      </h4>
      <Json value={step.output} label={`Output, ${title.toLowerCase()} run`} />
    </div>
  );
}
