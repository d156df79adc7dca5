import { useVirtualizer } from "@tanstack/react-virtual";
import { Maximize2, ZoomIn, ZoomOut } from "lucide-react";
import { useCallback, useEffect, useMemo, useRef, useState, type PointerEvent } from "react";
import type { Event, Step } from "@/api/types";
import { IconButton } from "@/components/button";
import { STATUS, TONE } from "@/components/status";
import { Plain } from "@/components/text";
import { useNow } from "@/components/time";
import { duration } from "@/lib/format";
import { shortName } from "@/routes/run/kind";
import { extent, spoken, tracksOf, type Track } from "@/routes/run/spans";
import { Bars } from "@/routes/run/timeline/bars";
import { clamp, mark, pan, ticks, zoom, type Range } from "@/routes/run/timeline/scale";
import { Empty } from "@/components/panel";

interface Props {
  steps: readonly Step[];
  events: readonly Event[];
  live: boolean;
  selected: string | null;
  onSelect: (name: string) => void;
}

const ROW = 32;
const MARKS = 8;
const NAMES = "w-36 md:w-56";

/** Who worked when on what; where attempts failed, workers died and people were waited for. */
export function Timeline({ steps, events, live, selected, onSelect }: Props) {
  const tracks = useMemo(() => tracksOf(events), [events]);
  const rows = useMemo(() => rowsOf(steps, tracks), [steps, tracks]);
  const now = useNow();
  const whole = useMemo(() => extent(events, live ? now : null), [events, live, now]);
  const [seen, setSeen] = useState<Range | null>(null);
  const shown = seen ? clamp(seen, whole) : padded(whole);
  if (!events.length) return <Empty title="Nothing has happened yet">The timeline begins with the first event.</Empty>;
  return (
    <div className="flex h-full flex-col rounded-lg border bg-panel">
      <Bar seen={shown} whole={whole} zoomed={seen !== null} onSeen={setSeen} />
      <Rows rows={rows} tracks={tracks} seen={shown} whole={whole} edge={live ? now : whole[1]} selected={selected} onSelect={onSelect} onSeen={setSeen} />
    </div>
  );
}

/** A little room at the end: the last mark is not cut. */
const padded = ([from, to]: Range): Range => [from, to + (to - from) * 0.02];

/** Return the steps that have moved, in the order in which they did, and then those that have not. */
function rowsOf(steps: readonly Step[], tracks: Map<string, Track>): Step[] {
  const first = (step: Step) => tracks.get(step.name)?.attempts[0]?.start ?? tracks.get(step.name)?.ended?.at ?? Infinity;
  const at = new Map(steps.map((step) => [step.name, first(step)]));
  return [...steps].sort((a, b) => at.get(a.name)! - at.get(b.name)! || a.no - b.no || 0);
}

function Bar({ seen, whole, zoomed, onSeen }: { seen: Range; whole: Range; zoomed: boolean; onSeen: (range: Range | null) => void }) {
  const middle = (seen[0] + seen[1]) / 2;
  return (
    <div className="flex flex-wrap items-center gap-x-4 gap-y-1 border-b px-3 py-1.5 text-[12px] text-soft">
      <Legend />
      <div className="ml-auto flex items-center gap-1">
        <span className="tabular mr-1" aria-live="off">{duration((seen[1] - seen[0]) / 1000)} shown</span>
        <IconButton label="Zoom out" className="size-7" disabled={!zoomed} onClick={() => onSeen(zoom(seen, middle, 0.5, whole))}><ZoomOut className="size-4" aria-hidden /></IconButton>
        <IconButton label="Zoom in" className="size-7" onClick={() => onSeen(zoom(seen, middle, 2, whole))}><ZoomIn className="size-4" aria-hidden /></IconButton>
        <IconButton label="Show all of it" className="size-7" disabled={!zoomed} onClick={() => onSeen(null)}><Maximize2 className="size-4" aria-hidden /></IconButton>
      </div>
    </div>
  );
}

const LEGEND: [string, string][] = [
  ["border-good bg-good-soft", "succeeded"], ["border-busy bg-busy-soft", "running"], ["border-bad bg-bad-soft", "failed"],
  ["border-dashed border-bad bg-bad-soft", "lease lost"], ["border-wait bg-wait-soft", "waits"],
];

function Legend() {
  return (
    <ul className="hidden flex-wrap gap-x-3 gap-y-1 md:flex" aria-label="Legend">
      {LEGEND.map(([look, label]) => (
        <li key={label} className="flex items-center gap-1.5"><span className={`h-3 w-4 rounded-[3px] border ${look}`} aria-hidden />{label}</li>
      ))}
    </ul>
  );
}

interface RowsProps {
  rows: Step[];
  tracks: Map<string, Track>;
  seen: Range;
  whole: Range;
  edge: number;
  selected: string | null;
  onSelect: (name: string) => void;
  onSeen: (range: Range | null) => void;
}

function Rows({ rows, tracks, seen, whole, edge, selected, onSelect, onSeen }: RowsProps) {
  const scroller = useRef<HTMLDivElement>(null);
  const field = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => scroller.current, estimateSize: () => ROW, overscan: 12 });
  useWheel(scroller, field, seen, whole, onSeen);
  return (
    <div ref={scroller} tabIndex={0} role="group" aria-label="Steps over time" className="min-h-0 flex-1 overflow-auto">
      <Axis field={field} seen={seen} start={whole[0]} onRange={(range) => onSeen(clamp(range, whole))} />
      <ul className="relative min-h-[calc(100%-2rem)]" style={{ height: virtual.getTotalSize() }}>
        <li aria-hidden className="pointer-events-none absolute inset-0 flex" role="presentation"><Grid seen={seen} start={whole[0]} /></li>
        {virtual.getVirtualItems().map((item) => {
          const step = rows[item.index]!;
          return (
            <li key={step.name} className="absolute inset-x-0 flex" style={{ top: item.start, height: ROW }}>
              <Row step={step} track={tracks.get(step.name)} seen={seen} edge={edge} chosen={step.name === selected} onSelect={onSelect} />
            </li>
          );
        })}
      </ul>
    </div>
  );
}

function Row({ step, track, seen, edge, chosen, onSelect }: { step: Step; track: Track | undefined; seen: Range; edge: number; chosen: boolean; onSelect: (name: string) => void }) {
  const { tone, icon: Picture, spin, label } = STATUS[step.status];
  return (
    <div className={`flex w-full hover:bg-raised/70 ${chosen ? "bg-accent-soft" : ""}`}>
      <button
        type="button"
        onClick={() => onSelect(step.name)}
        aria-pressed={chosen}
        data-step={step.name}
        aria-label={`${step.name}, ${label}; ${track ? spoken(track) : "not begun"}`}
        className={`flex h-full shrink-0 items-center gap-1.5 border-r px-3 text-left outline-offset-[-2px] ${NAMES}`}
      >
        <Picture className={`size-3.5 shrink-0 ${TONE[tone].split(" ")[0]} ${spin ? "animate-spin" : ""}`} aria-hidden />
        <span className={`truncate text-[12.5px] ${step.status === "skipped" || step.status === "pending" ? "text-soft" : ""}`}><Plain text={shortName(step)} /></span>
      </button>
      {/* For the eye and the mouse: the button says all of it. */}
      <span className="relative h-full min-w-0 flex-1 cursor-pointer overflow-hidden" aria-hidden onClick={() => onSelect(step.name)}>
        {track && <Bars track={track} seen={seen} edge={edge} />}
      </span>
    </div>
  );
}

/** The axis' marks, faintly, below all rows. */
function Grid({ seen, start }: { seen: Range; start: number }) {
  return (
    <>
      <div className={`shrink-0 border-r ${NAMES}`} />
      <div className="relative min-w-0 flex-1 overflow-hidden">
        {ticks(seen, start, MARKS).map((ms) => <span key={ms} className="absolute inset-y-0 border-l opacity-60" style={{ left: `${((start + ms - seen[0]) / (seen[1] - seen[0])) * 100}%` }} />)}
      </div>
    </>
  );
}

/** The marks of time; dragging over them shows what was dragged over. */
function Axis({ field, seen, start, onRange }: { field: React.RefObject<HTMLDivElement | null>; seen: Range; start: number; onRange: (range: Range) => void }) {
  const [drag, setDrag] = useState<Range | null>(null);
  const at = (event: PointerEvent) => {
    const box = field.current!.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  const moment = (share: number) => seen[0] + share * (seen[1] - seen[0]);
  const done = () => {
    if (drag && Math.abs(drag[1] - drag[0]) > 0.01) onRange([moment(Math.min(...drag)), moment(Math.max(...drag))]);
    setDrag(null);
  };
  const marks = ticks(seen, start, MARKS);
  return (
    <div className="sticky top-0 z-20 flex h-8 border-b bg-panel text-[11px] text-soft" aria-hidden>
      <div className={`flex shrink-0 items-center border-r px-3 ${NAMES}`}>since the start</div>
      <div
        ref={field}
        title="Drag to zoom into a range; Ctrl and wheel to zoom, Shift and wheel to move"
        className="relative min-w-0 flex-1 cursor-crosshair touch-none overflow-hidden"
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          setDrag([at(event), at(event)]);
        }}
        onPointerMove={(event) => drag && setDrag([drag[0], at(event)])}
        onPointerUp={done}
        onPointerCancel={() => setDrag(null)}
      >
        {marks.map((ms, index) => (
          <span key={ms} className={`tabular absolute inset-y-0 border-l pl-1 leading-8 whitespace-nowrap ${index % 2 ? "max-md:hidden" : ""}`} style={{ left: `${((start + ms - seen[0]) / (seen[1] - seen[0])) * 100}%` }}>{mark(ms)}</span>
        ))}
        {drag && <span className="absolute inset-y-0 bg-accent/25" style={{ left: `${Math.min(...drag) * 100}%`, width: `${Math.abs(drag[1] - drag[0]) * 100}%` }} />}
      </div>
    </div>
  );
}

/** Ctrl and wheel (a pinch is that) zooms about the pointer, Shift and wheel moves; a bare wheel scrolls the rows as it does anywhere. */
function useWheel(scroller: React.RefObject<HTMLDivElement | null>, field: React.RefObject<HTMLDivElement | null>, seen: Range, whole: Range, onSeen: (range: Range | null) => void): void {
  const now = useRef({ seen, whole, onSeen });
  now.current = { seen, whole, onSeen };
  const turn = useCallback((event: WheelEvent) => {
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) return;
    event.preventDefault();
    const box = field.current?.getBoundingClientRect();
    if (!box) return;
    const { seen, whole, onSeen } = now.current;
    const delta = event.deltaY || event.deltaX;
    const width = seen[1] - seen[0];
    if (event.shiftKey) return onSeen(pan(seen, (delta / box.width) * width, whole));
    const about = seen[0] + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * width;
    onSeen(zoom(seen, about, Math.exp(-delta / 300), whole));
  }, [field]);
  useEffect(() => {
    const element = scroller.current;
    // React listens passively, and could not keep the browser from zooming the page.
    element?.addEventListener("wheel", turn, { passive: false });
    return () => element?.removeEventListener("wheel", turn);
  }, [scroller, turn]);
}
