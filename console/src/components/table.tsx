/** A table of any length: only what is in sight is drawn, and where there is no room for columns a row is a card. */
import { rowSelectionFeature, tableFeatures, useTable, type ColumnDef, type Row, type RowData, type RowSelectionState } from "@tanstack/react-table";
import { useVirtualizer } from "@tanstack/react-virtual";
import { memo, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState, type ReactNode, type RefObject } from "react";

export type Selection = RowSelectionState;

export interface Column<T> {
  id: string;
  header: string;
  /** A track of the grid: "120px", "minmax(200px,1fr)". */
  width: string;
  right?: boolean;
  /** The header is for who hears the table; one sees what the column is. */
  quiet?: boolean;
  cell: (row: T) => ReactNode;
}

interface Props<T> {
  label: string;
  rows: readonly T[];
  columns: readonly Column<T>[];
  rowId: (row: T) => string;
  /** What a row is where it is narrow. */
  card: (row: T) => ReactNode;
  rowHeight?: number;
  cardHeight?: number;
  /** Below this width a row is a card. */
  narrow?: number;
  selection?: Selection;
  onSelection?: (selection: Selection) => void;
  /** What the box of a row is called. */
  selectLabel?: (row: T) => string;
  /** More can be loaded; asked for when the end comes near. */
  more?: boolean;
  onEnd?: () => void;
  /** The first row in sight, each time it is another. */
  onTop?: (index: number) => void;
}

const features = tableFeatures({ rowSelectionFeature });
const OVERSCAN = 12;
const AHEAD = 25;
const NONE: Selection = {};

export function DataTable<T extends RowData>(props: Props<T>) {
  const { rows, columns, rowId, rowHeight = 44, cardHeight = 76, narrow = 780, selection, onSelection, onEnd, onTop, more } = props;
  const frame = useRef<HTMLDivElement>(null);
  const body = useRef<HTMLDivElement>(null);
  const place = usePlace(frame, body);
  const cards = place.width > 0 && place.width < narrow;
  const defs = useMemo<ColumnDef<typeof features, T, unknown>[]>(() => columns.map(({ id, header }) => ({ id, header })), [columns]);
  const table = useTable({
    features, columns: defs, data: rows as T[], getRowId: rowId, enableRowSelection: onSelection !== undefined,
    state: { rowSelection: selection ?? NONE },
    onRowSelectionChange: (change) => onSelection?.(typeof change === "function" ? change(selection ?? NONE) : change),
  });
  const model = table.getRowModel().rows;
  // Another function would have every row measured anew, at each scroll.
  const itemKey = useCallback((index: number) => model[index]?.id ?? index, [model]);
  const virtual = useVirtualizer({
    count: model.length, getScrollElement: () => place.scroller, estimateSize: () => (cards ? cardHeight : rowHeight), overscan: OVERSCAN,
    scrollMargin: place.margin, initialRect: { width: 1000, height: 800 }, getItemKey: itemKey,
  });
  useEffect(() => virtual.measure(), [virtual, cards, cardHeight, rowHeight]);
  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? 0;
  const first = virtual.range?.startIndex ?? 0;
  useEffect(() => {
    if (more && last >= model.length - AHEAD) onEnd?.();
  }, [more, last, model.length, onEnd]);
  useEffect(() => onTop?.(first), [first, onTop]);

  // Whether all are selected takes a look at each; none is, as a rule.
  const chosen = Object.keys(selection ?? NONE).length;
  const tracks = [...(onSelection ? ["36px"] : []), ...columns.map((column) => column.width)].join(" ");
  return (
    <div ref={frame} role={cards ? "list" : "table"} aria-label={props.label} aria-rowcount={cards ? undefined : more ? -1 : model.length + 1} className="rounded-lg border bg-panel">
      {!cards && (
        <div role="rowgroup" className="sticky top-0 z-10 rounded-t-lg border-b bg-panel">
          <div role="row" aria-rowindex={1} className="grid h-10 items-center gap-x-3 px-4 text-[12.5px] text-soft" style={{ gridTemplateColumns: tracks }}>
            {onSelection && (
              <div role="columnheader">
                <AllBox on={chosen > 0 && table.getIsAllRowsSelected()} some={chosen > 0} onChange={() => table.toggleAllRowsSelected()} />
              </div>
            )}
            {columns.map((column) => (
              <div key={column.id} role="columnheader" className={`truncate ${column.right ? "text-right" : ""}`}>{column.quiet ? <span className="sr-only">{column.header}</span> : column.header}</div>
            ))}
          </div>
        </div>
      )}
      <div ref={body} role={cards ? "presentation" : "rowgroup"} className="relative" style={{ height: virtual.getTotalSize() }}>
        {items.map((item) => {
          const row = model[item.index];
          if (!row) return null;
          const line: LineProps<T> = {
            row, index: item.index, top: item.start - place.margin, height: item.size, selected: row.getIsSelected(),
            selectLabel: onSelection && (props.selectLabel ?? nameless),
          };
          return cards
            ? <MemoCard key={row.id} {...line} card={props.card} count={more ? -1 : model.length} />
            : <MemoLine key={row.id} {...line} columns={columns} tracks={tracks} />;
        })}
      </div>
    </div>
  );
}

const nameless = () => "Select the row";

interface LineProps<T extends RowData> {
  row: Row<typeof features, T>;
  index: number;
  top: number;
  height: number;
  selected: boolean;
  /** What its box is called; without one it has no box. */
  selectLabel: ((row: T) => string) | undefined;
}

function Box<T extends RowData>({ row, selected, selectLabel }: LineProps<T>) {
  return (
    <label className="relative z-[1] -m-2 flex w-8 cursor-pointer p-2">
      <span className="sr-only">{selectLabel?.(row.original)}</span>
      <input type="checkbox" checked={selected} onChange={row.getToggleSelectedHandler()} className="size-4 accent-accent" />
    </label>
  );
}

function Line<T extends RowData>(props: LineProps<T> & { columns: readonly Column<T>[]; tracks: string }) {
  const { row, index, top, height, selected, selectLabel, columns, tracks } = props;
  return (
    <div role="row" aria-rowindex={index + 2} aria-selected={selectLabel ? selected : undefined} data-row={row.id}
      className="absolute inset-x-0 top-0 grid items-center gap-x-3 border-b px-4 last:border-b-0 hover:bg-raised/60 aria-selected:bg-accent-soft/60"
      style={{ gridTemplateColumns: tracks, height, transform: `translateY(${top}px)` }}>
      {selectLabel && <div role="cell"><Box {...props} /></div>}
      {columns.map((column) => (
        <div key={column.id} role="cell" className={`min-w-0 truncate ${column.right ? "tabular text-right" : ""}`}>{column.cell(row.original)}</div>
      ))}
    </div>
  );
}

function Card<T extends RowData>(props: LineProps<T> & { card: (row: T) => ReactNode; count: number }) {
  const { row, index, top, height, selectLabel, card, count } = props;
  return (
    <div role="listitem" aria-posinset={index + 1} aria-setsize={count} data-row={row.id} className="absolute inset-x-0 top-0 flex items-center gap-3 border-b px-3 last:border-b-0 hover:bg-raised/60" style={{ height, transform: `translateY(${top}px)` }}>
      {selectLabel && <Box {...props} />}
      <div className="min-w-0 flex-1">{card(row.original)}</div>
    </div>
  );
}

// A scroll draws the rows that come into sight and no other.
const MemoLine = memo(Line) as typeof Line;
const MemoCard = memo(Card) as typeof Card;

function AllBox({ on, some, onChange }: { on: boolean; some: boolean; onChange: () => void }) {
  const ref = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (ref.current) ref.current.indeterminate = some && !on;
  }, [some, on]);
  return <input ref={ref} type="checkbox" aria-label="Select all that are loaded" checked={on} onChange={onChange} className="block size-4 accent-accent" />;
}

interface Place {
  scroller: Element | null;
  margin: number;
  width: number;
}

/** Where the rows lie within what scrolls, which is the screen and not the table: one scroll bar, on a phone too. */
function usePlace(frame: RefObject<HTMLDivElement | null>, body: RefObject<HTMLDivElement | null>): Place {
  const [place, setPlace] = useState<Place>({ scroller: null, margin: 0, width: 0 });
  useLayoutEffect(() => {
    const scroller = frame.current?.closest("main") ?? null;
    const look = () => {
      if (!frame.current || !body.current) return;
      const margin = scroller ? Math.round(body.current.getBoundingClientRect().top - scroller.getBoundingClientRect().top + scroller.scrollTop) : 0;
      const width = frame.current.clientWidth;
      setPlace((before) => (before.scroller === scroller && before.margin === margin && before.width === width ? before : { scroller, margin, width }));
    };
    look();
    const observer = new ResizeObserver(look);
    observer.observe(frame.current!);
    if (scroller?.firstElementChild) observer.observe(scroller.firstElementChild);
    return () => observer.disconnect();
  }, [frame, body]);
  return place;
}
