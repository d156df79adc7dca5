import { useVirtualizer } from "@tanstack/react-virtual";
import { ChevronRight } from "lucide-react";
import { memo, useDeferredValue, useMemo, useRef, useState } from "react";
import type { Event } from "@/api/types";
import { Checkbox, Input, Select } from "@/components/field";
import { Json } from "@/components/json";
import { Empty } from "@/components/panel";
import type { Tone } from "@/components/status";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { count, duration } from "@/lib/format";
import { filtered, told, toneOf, type EventFilter } from "@/routes/run/told";

interface Props {
  events: readonly Event[];
  live: boolean;
  filter: EventFilter;
  onFilter: (filter: EventFilter) => void;
  onSelect: (step: string) => void;
}

const TEXT: Record<Tone, string> = { good: "text-good", busy: "text-busy", wait: "text-wait", bad: "text-bad", idle: "text-soft" };
const FAMILIES = ["run", "step", "effect"];

/** Everything that happened, in the order of the record. */
export function Events({ events, live, filter, onFilter, onSelect }: Props) {
  const types = useMemo(() => [...new Set(events.map((event) => event.type))].sort(), [events]);
  const wanted = useDeferredValue(filter.text);
  const shown = useMemo(() => filtered(events, { type: filter.type, text: wanted }), [events, filter.type, wanted]);
  const [following, setFollowing] = useState(false);
  // Numbers have no gaps: what is missing of them was let go (`bounded`).
  const gone = (events.at(-1)?.seq ?? 0) - events.length;
  return (
    <div className="flex h-full flex-col rounded-lg border bg-panel">
      <div className="flex flex-wrap items-center gap-2 border-b px-3 py-2">
        <div className="w-40"><Select label="Type" hideLabel value={filter.type} onChange={(event) => onFilter({ ...filter, type: event.target.value })}>
          <option value="">All types</option>
          {FAMILIES.map((one) => <option key={one} value={one}>All of {one}</option>)}
          {types.map((one) => <option key={one} value={one}>{one}</option>)}
        </Select></div>
        <div className="min-w-36 flex-1 md:max-w-72"><Input label="Filter by text" hideLabel type="search" placeholder="Step, worker, message" value={filter.text} onChange={(event) => onFilter({ ...filter, text: event.target.value })} /></div>
        <span className="tabular ml-auto text-[12.5px] text-soft" role="status">{shown.length === events.length ? `${count(events.length)} events` : `${count(shown.length)} of ${count(events.length)} events`}{gone > 0 && ` · ${count(gone)} older ones are in the export only`}</span>
        {live && <Checkbox label="Follow" checked={following} onChange={(event) => setFollowing(event.target.checked)} />}
      </div>
      {shown.length ? <List events={shown} start={Date.parse(events[0]!.at)} following={following && live} onSelect={onSelect} /> : (
        <Empty title={events.length ? "No event is like that" : "Nothing has happened yet"}>{events.length ? "Change the type or the text above." : "Events appear here the moment they are committed."}</Empty>
      )}
    </div>
  );
}

function List({ events, start, following, onSelect }: { events: readonly Event[]; start: number; following: boolean; onSelect: (step: string) => void }) {
  const scroller = useRef<HTMLDivElement>(null);
  const [open, setOpen] = useState<ReadonlySet<number>>(new Set());
  const virtual = useVirtualizer({
    count: events.length, getScrollElement: () => scroller.current, estimateSize: () => 34, overscan: 14,
    getItemKey: (index) => events[index]!.seq,
  });
  const last = useRef(0);
  if (following && events.length !== last.current) {
    last.current = events.length;
    queueMicrotask(() => virtual.scrollToIndex(events.length - 1));
  }
  const toggle = (seq: number) => setOpen((before) => {
    const after = new Set(before);
    if (!after.delete(seq)) after.add(seq);
    return after;
  });
  return (
    <div ref={scroller} tabIndex={0} role="group" aria-label="Events" className="min-h-0 flex-1 overflow-auto">
      <ol className="relative" style={{ height: virtual.getTotalSize() }}>
        {virtual.getVirtualItems().map((item) => (
          <li key={item.key} data-index={item.index} ref={virtual.measureElement} className="absolute inset-x-0 border-b" style={{ transform: `translateY(${item.start}px)` }}>
            <Line start={start} event={events[item.index]!} open={open.has(events[item.index]!.seq)} onToggle={toggle} onSelect={onSelect} />
          </li>
        ))}
      </ol>
    </div>
  );
}

const Line = memo(function Line({ event, start, open, onToggle, onSelect }: { event: Event; start: number; open: boolean; onToggle: (seq: number) => void; onSelect: (step: string) => void }) {
  const facts = told(event);
  return (
    <>
      <div className="grid min-h-[33px] grid-cols-[auto_auto_minmax(0,1fr)] items-baseline gap-x-3 px-2 py-1.5 text-[12.5px] hover:bg-raised md:grid-cols-[4.5rem_9rem_11rem_minmax(0,13rem)_minmax(0,1fr)]">
        <button type="button" aria-expanded={open} aria-label={`Event ${event.seq}: all of it`} onClick={() => onToggle(event.seq)} className="tabular flex items-center gap-1 self-start rounded text-soft hover:text-ink">
          <ChevronRight className={`size-3.5 shrink-0 transition-transform ${open ? "rotate-90" : ""}`} aria-hidden />
          {event.seq}
        </button>
        <span className="tabular flex justify-between gap-2 text-soft"><Time at={event.at} as="clock" /><span className="max-md:hidden" title="since the first event">+{duration((Date.parse(event.at) - start) / 1000)}</span></span>
        <code className={`truncate font-mono text-[12px] ${TEXT[toneOf(event)]}`}>{event.type}</code>
        {event.step === null ? <span className="max-md:hidden" /> : (
          <button type="button" onClick={() => onSelect(event.step!)} className="truncate rounded text-left hover:underline max-md:col-span-3 max-md:pl-5">
            <Plain text={event.step} />
          </button>
        )}
        <span className="truncate text-soft max-md:col-span-3 max-md:pl-5" title={facts}><Plain text={facts} /></span>
      </div>
      {open && <div className="px-3 pb-3 md:pl-9"><Json value={event.data} label={`Facts of event ${event.seq}`} /></div>}
    </>
  );
});
