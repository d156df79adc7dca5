import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { call } from "@/api/client";
import { budgetQuery } from "@/api/queries";
import type { Limit, Run } from "@/api/types";
import { Button } from "@/components/button";
import { Input, Select } from "@/components/field";
import { Failure, Panel, Skeleton } from "@/components/panel";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { count, duration, money, secondsBetween } from "@/lib/format";
import { FINAL } from "@/live/apply";

const LABEL: Record<string, string> = { tokens: "Tokens", tools: "Tool calls", wall_clock_s: "Time", microusd: "Money" };

/** Write an amount in the unit of its meter. */
export function amount(meter: string, value: number): string {
  if (meter === "microusd") return money(value);
  if (meter === "wall_clock_s") return duration(value);
  return count(value);
}

const named = (meter: string) => LABEL[meter] ?? (meter.startsWith("tool:") ? `Calls of ${meter.slice(5)}` : meter);

/** Return the body that sets one limit; dollars are told to the server in millionths. */
export function limitBody(meter: string, value: number): Record<string, unknown> {
  if (meter === "microusd") return { microusd: Math.round(value * 1_000_000) };
  if (meter.startsWith("tool:")) return { per_tool: { [meter.slice(5)]: value } };
  return { [meter]: value };
}

/** What the run and all it starts may spend, what it has, and where it went. */
export function BudgetView({ run, onSelect }: { run: Run; onSelect: (step: string) => void }) {
  const { data, error, refetch } = useQuery(budgetQuery(run.id));
  return (
    <div tabIndex={0} role="group" aria-label="Budget" className="flex h-full flex-col gap-4 overflow-auto">
      <Panel title="Limits">
        {error ? <Failure error={error} retry={() => void refetch()} /> : !data ? <Skeleton rows={2} /> : (
          <div className="flex flex-col gap-5">
            {data.limits.length ? data.limits.map((limit) => spentBy(run, limit)).map((limit) => <Meter key={`${limit.meter}-${limit.window_s}`} limit={limit} />) : <p className="text-soft">Nothing limits this run. Set a limit below, or give one as <code className="font-mono">budget</code> when it is started.</p>}
            {!FINAL.has(run.status) && <SetLimit run={run} limits={data.limits} />}
          </div>
        )}
      </Panel>
      <Spenders run={run} onSelect={onSelect} />
    </div>
  );
}

/** Time passes without being booked: what is used up of it is how long the run has taken. */
function spentBy(run: Run, limit: Limit): Limit {
  if (limit.meter !== "wall_clock_s") return limit;
  return { ...limit, spent: Math.max(limit.spent, secondsBetween(run.started_at, run.finished_at) ?? 0) };
}

function Meter({ limit }: { limit: Limit }) {
  const share = (value: number) => `${limit.cap ? Math.min(100, (value / limit.cap) * 100) : 100}%`;
  const full = limit.spent >= limit.cap;
  return (
    <div className="flex flex-col gap-1.5">
      <div className="flex flex-wrap items-baseline justify-between gap-x-4">
        <span className="font-medium"><Plain text={named(limit.meter)} />{limit.window_s > 0 && <span className="font-normal text-soft"> within {duration(limit.window_s)}</span>}</span>
        <span className="tabular text-soft"><span className={full ? "text-bad" : "text-ink"}>{amount(limit.meter, limit.spent)}</span> of {amount(limit.meter, limit.cap)}{limit.reserved > 0 && `, ${amount(limit.meter, limit.reserved)} reserved`}</span>
      </div>
      <div role="meter" aria-label={named(limit.meter)} aria-valuemin={0} aria-valuemax={limit.cap} aria-valuenow={Math.min(limit.spent, limit.cap)} className="flex h-2 overflow-hidden rounded-full bg-raised">
        <span className={full ? "bg-bad" : "bg-accent"} style={{ width: share(limit.spent) }} />
        <span className="bg-accent/40" style={{ width: share(limit.reserved) }} />
      </div>
      <p className="text-[12.5px] text-soft">At the limit the run {limit.on_limit === "pause" ? "is paused" : "fails"}.{limit.due_at && <> Due <Time at={limit.due_at} />.</>}</p>
    </div>
  );
}

function SetLimit({ run, limits }: { run: Run; limits: readonly Limit[] }) {
  const client = useQueryClient();
  const meters = [...new Set([...limits.map((limit) => limit.meter), "tokens", "microusd", "tools", "wall_clock_s"])];
  const [meter, setMeter] = useState(meters[0]!);
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const value = Number(text);
  const wrong = text && !(value >= 0 && (meter === "microusd" || Number.isInteger(value))) ? "A number, not below zero." : null;
  const send = async () => {
    setBusy(true);
    setError(null);
    try {
      await call("POST", `/runs/${run.id}/budget`, limitBody(meter, value));
      setText("");
      await client.invalidateQueries({ queryKey: ["run", run.id] });
    } catch (failure) {
      setError(failure);
    } finally {
      setBusy(false);
    }
  };
  return (
    <form className="flex flex-wrap items-end gap-2 border-t pt-4" onSubmit={(event) => { event.preventDefault(); void send(); }}>
      <div className="w-44"><Select label="Limit" value={meter} onChange={(event) => setMeter(event.target.value)}>{meters.map((one) => <option key={one} value={one}>{named(one)}</option>)}</Select></div>
      <div className="w-44"><Input label={meter === "microusd" ? "New total, in dollars" : meter === "wall_clock_s" ? "New total, in seconds" : "New total"} inputMode="decimal" value={text} error={wrong} onChange={(event) => setText(event.target.value)} /></div>
      <Button type="submit" look="primary" busy={busy} disabled={!text || wrong !== null}>Set the limit</Button>
      <p className="w-full text-[12.5px] text-soft">A total, with what is spent already. What the limit had paused goes on.</p>
      {error !== null && <div className="w-full"><Failure error={error} /></div>}
    </form>
  );
}

const MOST = 20;

function Spenders({ run, onSelect }: { run: Run; onSelect: (step: string) => void }) {
  const spent = run.steps.filter((step) => (step.tokens ?? 0) > 0 || (step.microusd ?? 0) > 0 || (step.calls ?? 0) > 0);
  const top = spent.toSorted((a, b) => (b.microusd ?? 0) - (a.microusd ?? 0) || (b.tokens ?? 0) - (a.tokens ?? 0)).slice(0, MOST);
  return (
    <Panel title="Where it went" flush={top.length > 0}>
      {top.length === 0 ? <p className="text-soft">No step has called a model.</p> : (
        <div className="overflow-x-auto" tabIndex={0} role="group" aria-label="Spending by step">
          <table className="w-full text-left">
            <thead className="text-[12.5px] text-soft"><tr className="border-b [&>th]:px-4 [&>th]:py-2 [&>th]:font-medium"><th>Step</th><th className="text-right">Calls</th><th className="text-right">Tokens</th><th className="text-right">Cost</th></tr></thead>
            <tbody className="divide-y">
              {top.map((step) => (
                <tr key={step.name} className="[&>td]:px-4 [&>td]:py-1.5">
                  <td className="max-w-64 truncate"><button type="button" className="max-w-full truncate hover:underline" onClick={() => onSelect(step.name)}><Plain text={step.name} /></button></td>
                  <td className="tabular text-right">{count(step.calls ?? 0)}</td>
                  <td className="tabular text-right">{count(step.tokens ?? 0)}</td>
                  <td className="tabular text-right">{money(step.microusd ?? 0)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Panel>
  );
}
