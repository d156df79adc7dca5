/** A small chart over time: drawn on a canvas in the colours of the theme, told in words to who cannot see it. */
import { useEffect, useRef, useState, type ReactNode } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useDark } from "@/app/theme";
import type { Tone } from "@/components/status";

export interface Series {
  label: string;
  tone: Tone | "accent";
  values: readonly number[];
}

interface Props {
  /** What is drawn, as a sentence: for who cannot see it. */
  summary: string;
  /** Seconds since 1970 of each slice. */
  times: readonly number[];
  series: readonly Series[];
  format: (value: number) => string;
  height?: number;
  /** What stands above it while nothing is pointed at. */
  children?: ReactNode;
}

const DOT: Record<Series["tone"], string> = {
  good: "bg-good", busy: "bg-busy", wait: "bg-wait", bad: "bg-bad", idle: "bg-idle", accent: "bg-accent",
};
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export function Chart({ summary, times, series, format, height = 84, children }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [at, setAt] = useState<number | null>(null);
  const dark = useDark();
  const shape = series.map((one) => `${one.label}:${one.tone}`).join(",");
  const data = useRef<uPlot.AlignedData>([[]]);
  data.current = [times as number[], ...series.map((one) => one.values as number[])];

  useEffect(() => {
    const element = box.current!;
    const made = new uPlot(options(series, element.clientWidth, height, setAt), data.current, element);
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
    // The lines are known by their names and tones; new figures are handed over below.
  }, [shape, height, dark]);
  useEffect(() => plot.current?.setData(data.current), [times, series]);

  return (
    <div>
      <div className="flex min-h-10 flex-wrap items-end justify-between gap-x-4 gap-y-1" aria-hidden={at !== null || undefined}>
        {at !== null && times[at] !== undefined ? (
          <p className="tabular flex flex-wrap gap-x-3 text-[12.5px] text-soft">
            <span>{clock.format(times[at] * 1000)}</span>
            {series.map((one) => (
              <span key={one.label} className="inline-flex items-center gap-1.5"><span className={`size-2 rounded-full ${DOT[one.tone]}`} />{one.label} {format(one.values[at] ?? 0)}</span>
            ))}
          </p>
        ) : (
          children
        )}
      </div>
      <div ref={box} role="img" aria-label={summary} className="mt-1 w-full overflow-hidden" style={{ height }} />
    </div>
  );
}

function options(series: readonly Series[], width: number, height: number, onPoint: (index: number | null) => void): uPlot.Options {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
  const axis = { stroke: colour("faint"), font: `11px ${getComputedStyle(document.body).fontFamily}`, grid: { show: false }, ticks: { show: false } };
  return {
    width, height, legend: { show: false }, padding: [6, 2, 0, 2],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
    scales: { y: { range: (_, __, most) => [0, Math.max(most, 1) * 1.05] } },
    axes: [
      { ...axis, size: 20, space: 90, values: (self, ticks) => ticks.map((tick) => (fits(self, tick) ? clock.format(tick * 1000) : "")) },
      { show: false },
    ],
    series: [
      {},
      ...series.map((one, index): uPlot.Series => ({
        label: one.label, stroke: colour(one.tone), width: 1.5, points: { show: false },
        ...(index === 0 ? { fill: colour(one.tone === "accent" ? "accent-soft" : `${one.tone}-soft`) } : {}),
      })),
    ],
    hooks: { setCursor: [(self) => onPoint(self.cursor.idx ?? null)] },
  };
}

/** Whether the label of a tick is wholly on the canvas: half a time is none. */
function fits(self: uPlot, tick: number): boolean {
  const x = self.valToPos(tick, "x");
  return x > 16 && x < self.width - 20;
}
