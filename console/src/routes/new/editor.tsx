import { useId, useMemo, useRef } from "react";
import { Plain } from "@/components/text";
import { lineOf, type Located } from "@/routes/new/locate";

/** A remark on the text: from the server, about a place in it or about the whole. */
export interface Remark { text: string; offset: number | null }

interface Props {
  label: string;
  value: string;
  onChange: (value: string) => void;
  located: Located;
  remarks?: readonly Remark[];
  rows?: number;
  hint?: string;
}

const LINE_PX = 17.5;

/** JSON with line numbers; what is wrong is said below with its line, and one click away. */
export function JsonEditor({ label, value, onChange, located, remarks = [], rows = 20, hint }: Props) {
  const id = useId();
  const area = useRef<HTMLTextAreaElement>(null);
  const lines = useMemo(() => value.split("\n").length, [value]);
  const all = useMemo<Remark[]>(() => (located.mistake && value.trim() ? [{ text: located.mistake.message, offset: located.mistake.offset }] : [...remarks]), [located, remarks, value]);
  const marked = useMemo(() => new Set(all.flatMap((one) => (one.offset === null ? [] : [lineOf(value, one.offset).line]))), [all, value]);
  const goTo = (offset: number) => {
    area.current?.focus();
    area.current?.setSelectionRange(offset, offset);
    if (area.current) area.current.scrollTop = Math.max(0, (lineOf(value, offset).line - 4) * LINE_PX);
  };
  return (
    <div className="flex flex-col gap-1">
      <label htmlFor={id} className="font-medium">{label}</label>
      {hint && <p id={`${id}-hint`} className="text-[12.5px] text-soft">{hint}</p>}
      <div className={`flex overflow-hidden rounded-md border bg-panel focus-within:outline-2 focus-within:outline-offset-2 focus-within:outline-accent ${all.length ? "border-bad" : "border-strong"}`} style={{ height: rows * LINE_PX + 16 }}>
        <Gutter lines={lines} marked={marked} area={area} />
        <textarea id={id} ref={area} value={value} spellCheck={false} wrap="off" aria-invalid={all.length > 0 || undefined} aria-describedby={`${hint ? `${id}-hint ` : ""}${id}-remarks`}
          onChange={(event) => onChange(event.target.value)} onKeyDown={indent}
          className="min-w-0 flex-1 resize-none bg-transparent py-2 pr-3 pl-3 font-mono text-[12.5px] leading-5 whitespace-pre outline-none" />
      </div>
      <ul id={`${id}-remarks`} aria-live="polite" className="flex flex-col gap-0.5 text-[12.5px] text-bad">
        {all.map((one, index) => (
          <li key={index} className="break-words">
            {one.offset !== null && <button type="button" onClick={() => goTo(one.offset!)} className="tabular mr-1.5 font-medium underline">{place(value, one.offset)}</button>}
            <Plain text={one.text} />
          </li>
        ))}
      </ul>
    </div>
  );
}

function place(text: string, offset: number): string {
  const { line, column } = lineOf(text, offset);
  return `Line ${line}, column ${column}`;
}

/** The numbers of the lines, which move as the text is scrolled. */
function Gutter({ lines, marked, area }: { lines: number; marked: ReadonlySet<number>; area: React.RefObject<HTMLTextAreaElement | null> }) {
  const inner = useRef<HTMLDivElement>(null);
  const follow = (element: HTMLDivElement | null) => {
    inner.current = element;
    const text = area.current;
    if (!element || !text) return;
    const move = () => {
      element.style.transform = `translateY(${-text.scrollTop}px)`;
    };
    text.addEventListener("scroll", move, { passive: true });
    return () => text.removeEventListener("scroll", move);
  };
  return (
    <div aria-hidden className="tabular w-11 shrink-0 overflow-hidden border-r bg-raised/50 text-right font-mono text-[11.5px] leading-5 text-faint select-none">
      <div ref={follow} className="py-2">
        {Array.from({ length: lines }, (_, index) => (
          <div key={index} className={`pr-2.5 ${marked.has(index + 1) ? "bg-bad-soft font-semibold text-bad" : ""}`}>{index + 1}</div>
        ))}
      </div>
    </div>
  );
}

/** A new line begins where the last one began. Tab leaves the field, as it does everywhere. */
function indent(event: React.KeyboardEvent<HTMLTextAreaElement>): void {
  if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.shiftKey || event.nativeEvent.isComposing) return;
  const { value, selectionStart: start } = event.currentTarget;
  const line = value.slice(value.lastIndexOf("\n", start - 1) + 1, start);
  const lead = (/^ */.exec(line)?.[0] ?? "") + (/[[{]\s*$/.test(line) ? "  " : "");
  if (!lead) return;
  event.preventDefault();
  // Not by hand: so that it can be undone.
  document.execCommand("insertText", false, `\n${lead}`);
}
