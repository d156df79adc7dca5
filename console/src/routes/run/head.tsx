import { Link } from "@tanstack/react-router";
import { useMemo, type ReactNode } from "react";
import type { Event, Run } from "@/api/types";
import { LiveMark } from "@/app/shell";
import { CopyButton } from "@/components/json";
import { Status, Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { Time, Took } from "@/components/time";
import { count, money, shortId } from "@/lib/format";
import { FINAL } from "@/live/apply";
import type { Connection } from "@/live/socket";
import { Actions } from "@/routes/run/actions";

interface Props {
  run: Run;
  events: readonly Event[];
  connection: Connection;
  onReplay: () => void;
  onBudget: () => void;
}

/** What the run is, how it stands, what it cost, and what can be done with it. */
export function Head({ run, events, connection, onReplay, onBudget }: Props) {
  return (
    <header className="flex flex-col gap-3">
      <div className="flex flex-wrap items-start justify-between gap-x-6 gap-y-3">
        <div className="min-w-0 max-w-full flex-1 basis-80">
          <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
            <h1 className="line-clamp-2 min-w-0 text-xl font-semibold tracking-tight break-words"><Plain text={run.goal ?? run.graph ?? run.agent ?? "Run"} /></h1>
            <Status status={run.status} />
            {!FINAL.has(run.status) && <LiveMark connection={connection} />}
          </div>
          <Origins run={run} />
        </div>
        <Actions run={run} onReplay={onReplay} onBudget={onBudget} />
      </div>
      <Figures run={run} events={events} />
      <Dropped connection={connection} final={FINAL.has(run.status)} />
    </header>
  );
}

function Origins({ run }: { run: Run }) {
  const to = (id: string, text: string) => <Link to="/runs/$id" params={{ id }} className="text-accent hover:underline">{text}</Link>;
  return (
    <div className="mt-1 flex flex-wrap items-center gap-x-3 gap-y-0.5 text-[12.5px] text-soft">
      <span className="inline-flex items-center gap-0.5"><code className="font-mono" title={run.id}>{shortId(run.id)}</code><CopyButton text={() => run.id} label="Copy the run's id" /></span>
      {run.graph && <span>graph <Link to="/graphs/$name" params={{ name: run.graph }} className="text-accent hover:underline"><Plain text={run.graph} /></Link></span>}
      {run.agent && run.agent_id && <span>agent <Link to="/agents/$id" params={{ id: run.agent_id }} className="text-accent hover:underline"><Plain text={run.agent} /></Link></span>}
      {run.parent_run && <span>part of {to(run.parent_run, shortId(run.parent_run))}{run.parent_step !== null && <> at step {run.parent_step}</>}</span>}
      {run.origin && <span>{run.mode === "recorded" ? "replayed from the record of" : "replays"} {to(run.origin, shortId(run.origin))}</span>}
      {run.origin && <Link to="/runs/$id/diff/$other" params={{ id: run.origin, other: run.id }} className="text-accent hover:underline">compare</Link>}
      <span>started <Time at={run.created_at} />{run.started_by && <> by <Plain text={run.started_by} /></>}</span>
      {run.paused_until && <Tag tone="wait">paused until <Time at={run.paused_until} as="clock" /></Tag>}
    </div>
  );
}

function Figures({ run, events }: { run: Run; events: readonly Event[] }) {
  const workers = useMemo(() => [...new Set(events.map((event) => event.data.worker).filter((name): name is string => typeof name === "string"))].sort(), [events]);
  const done = run.steps.filter((step) => step.status === "succeeded" || step.status === "skipped" || step.status === "compensated").length;
  const dead = run.steps.filter((step) => step.status === "dead_letter").length;
  const failed = run.error ? reasonOf(run.error) : null;
  return (
    <>
      <dl className="grid grid-cols-2 gap-px overflow-hidden rounded-lg border bg-line sm:grid-cols-3 lg:grid-cols-5">
        <Figure name="Duration"><Took from={run.started_at} to={run.finished_at} /></Figure>
        <Figure name="Steps" note={<Progress done={done} dead={dead} total={run.steps_total} />}><span className="tabular">{count(done)}<span className="text-soft"> / {count(run.steps_total)}</span></span></Figure>
        <Figure name="Tokens" note={run.calls ? `${count(run.calls)} ${run.calls === 1 ? "call" : "calls"}` : null}><span className="tabular">{run.input_tokens + run.output_tokens ? <>{count(run.input_tokens)}<span className="text-soft"> in</span> {count(run.output_tokens)}<span className="text-soft"> out</span></> : "0"}</span></Figure>
        <Figure name="Cost"><span className="tabular">{money(run.microusd)}</span></Figure>
        <Figure name={workers.length > 1 ? `${workers.length} workers` : "Worker"}><span className="block truncate" title={workers.join(", ")}>{workers.length ? <Plain text={workers.slice(0, 3).join(", ") + (workers.length > 3 ? "…" : "")} /> : <span className="text-soft">none yet</span>}</span></Figure>
      </dl>
      {failed && <p role="status" className="rounded-md border border-bad/30 bg-bad-soft px-3 py-2 break-words text-bad"><Plain text={failed} /></p>}
    </>
  );
}

/** Say in a line why the run ended as it did. */
export function reasonOf(error: Record<string, unknown>): string {
  const text = (name: string) => (typeof error[name] === "string" && error[name] !== "" ? (error[name] as string) : null);
  const what = (text("reason") ?? "it failed").replaceAll("_", " ");
  const budget = error.budget as { meter?: string; cap?: number } | undefined;
  return [what, text("step") && `at ${text("step")!}`, text("message"), budget?.meter && `${budget.meter} ${budget.cap ?? ""}`].filter(Boolean).join(" · ");
}

function Figure({ name, children, note }: { name: string; children: ReactNode; note?: ReactNode }) {
  return (
    <div className="flex min-w-0 flex-col gap-0.5 bg-panel px-4 py-2.5 last:max-sm:col-span-2 last:sm:max-lg:col-span-2">
      <dt className="text-[12px] text-soft">{name}</dt>
      <dd className="flex min-w-0 flex-wrap items-baseline gap-x-2 text-[15px] font-medium"><span className="min-w-0 truncate">{children}</span>{note && <span className="text-[12px] font-normal whitespace-nowrap text-soft">{note}</span>}</dd>
    </div>
  );
}

function Progress({ done, dead, total }: { done: number; dead: number; total: number }) {
  const share = (part: number) => `${total ? (part / total) * 100 : 0}%`;
  return (
    <span className="inline-flex h-1.5 w-16 overflow-hidden rounded-full bg-raised align-middle" aria-hidden>
      <span className="h-full bg-good" style={{ width: share(done) }} />
      <span className="h-full bg-bad" style={{ width: share(dead) }} />
    </span>
  );
}

/** A socket that is gone is said where one looks, not only by a dot. */
function Dropped({ connection, final }: { connection: Connection; final: boolean }) {
  if (connection === "refused") return <p role="alert" className="rounded-md border border-bad/30 bg-bad-soft px-3 py-2 text-bad">The server refuses the live stream: enter an API key with the scope “read” under <Link to="/settings" className="underline">Settings</Link>.</p>;
  if (connection !== "reconnecting" || final) return null;
  return <p role="status" className="rounded-md border border-wait/30 bg-wait-soft px-3 py-2 text-wait">The connection dropped. What is shown is as it was then; it reconnects by itself and misses nothing.</p>;
}
