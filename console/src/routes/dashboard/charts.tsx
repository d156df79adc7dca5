import type { ReactNode } from "react";
import { useMemo } from "react";
import type { Stats } from "@/api/types";
import { Chart, type Series } from "@/components/chart";
import { count, money } from "@/lib/format";
import { sliceTimes, total, WINDOWS } from "@/routes/dashboard/figures";

/** What was done within the window, slice by slice. */
export default function Charts({ stats, window }: { stats: Stats; window: string }) {
  const times = useMemo(() => sliceTimes(stats), [stats]);
  const { started, completed, failed, steps, microusd, tokens } = stats.series;
  const label = WINDOWS[window]!.label;
  const perSecond = useMemo(() => steps.map((one) => one / stats.slice_s), [steps, stats.slice_s]);
  const runs = useMemo<Series[]>(() => [
    { label: "started", tone: "busy", values: started },
    { label: "completed", tone: "good", values: completed },
    { label: "failed", tone: "bad", values: failed },
  ], [started, completed, failed]);
  const rate = useMemo<Series[]>(() => [{ label: "steps/s", tone: "accent", values: perSecond }], [perSecond]);
  const spend = useMemo<Series[]>(() => [{ label: "spent", tone: "wait", values: microusd }], [microusd]);
  const average = total(steps) / stats.window_s;
  return (
    <div className="grid gap-4 md:grid-cols-3">
      <Tile title="Runs">
        <Chart times={times} series={runs} format={count} summary={`Runs of the last ${label}: ${total(started)} started, ${total(completed)} completed, ${total(failed)} failed.`}>
          <Figure value={count(total(started))} name="started" />
          <span className="flex gap-3 text-[12.5px] text-soft">
            <span><span className="tabular font-medium text-good">{count(total(completed))}</span> completed</span>
            <span><span className="tabular font-medium text-bad">{count(total(failed))}</span> failed</span>
          </span>
        </Chart>
      </Tile>
      <Tile title="Steps">
        <Chart times={times} series={rate} format={rateText} summary={`Steps that ended within the last ${label}: ${total(steps)}, ${rateText(average)} a second.`}>
          <Figure value={rateText(average)} name="steps/s" />
          <span className="text-[12.5px] text-soft"><span className="tabular">{count(total(steps))}</span> in all</span>
        </Chart>
      </Tile>
      <Tile title="Spend">
        <Chart times={times} series={spend} format={money} summary={`Spent within the last ${label}: ${money(total(microusd))} for ${total(tokens)} tokens.`}>
          <Figure value={money(total(microusd))} name="spent" />
          <span className="text-[12.5px] text-soft"><span className="tabular">{count(total(tokens))}</span> tokens</span>
        </Chart>
      </Tile>
    </div>
  );
}

export function rateText(value: number): string {
  return value === 0 ? "0" : value < 0.1 ? value.toFixed(3) : value < 10 ? value.toFixed(1) : count(value);
}

function Figure({ value, name }: { value: string; name: string }) {
  return <span className="flex items-baseline gap-1.5"><span className="tabular text-2xl leading-8 font-semibold tracking-tight">{value}</span><span className="text-[12.5px] text-soft">{name}</span></span>;
}

export function Tile({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section className="min-w-0 rounded-lg border bg-panel px-4 pt-3 pb-2">
      <h3 className="text-[12.5px] font-medium text-soft">{title}</h3>
      {children}
    </section>
  );
}
