import { Check, ChevronRight, Copy } from "lucide-react";
import { useState } from "react";
import { IconButton } from "@/components/button";
import { Plain } from "@/components/text";

const OPEN_DEPTH = 2;
const MANY = 100;
const LONG = 600;

/** A value as a tree that folds; strings are text and nothing else. */
export function Json({ value, label }: { value: unknown; label?: string }) {
  return (
    <div className="group relative rounded-md border bg-raised/50 text-[12.5px]" aria-label={label}>
      <div className="absolute top-1 right-1 opacity-0 group-hover:opacity-100 focus-within:opacity-100">
        <CopyButton text={() => JSON.stringify(value, null, 2)} />
      </div>
      <div className="max-h-96 overflow-auto p-2 font-mono leading-5 break-words" tabIndex={0} role="group" aria-label={label ?? "value"}>
        <Node value={value} depth={0} />
      </div>
    </div>
  );
}

export function CopyButton({ text, label = "Copy" }: { text: () => string; label?: string }) {
  const [done, setDone] = useState(false);
  return (
    <IconButton
      label={done ? "Copied" : label}
      className="size-7"
      onClick={() => {
        void navigator.clipboard.writeText(text()).then(() => {
          setDone(true);
          setTimeout(() => setDone(false), 1200);
        });
      }}
    >
      {done ? <Check className="size-3.5" aria-hidden /> : <Copy className="size-3.5" aria-hidden />}
    </IconButton>
  );
}

function Node({ value, depth, name }: { value: unknown; depth: number; name?: string }) {
  if (value !== null && typeof value === "object") return <Branch value={value as object} depth={depth} name={name} />;
  return (
    <div className={depth ? "pl-3.5" : ""}>
      {name !== undefined && <Name name={name} />}
      <Leaf value={value} />
    </div>
  );
}

function Name({ name }: { name: string }) {
  return (
    <span className="text-soft">
      <Plain text={name} />
      :{" "}
    </span>
  );
}

function Leaf({ value }: { value: unknown }) {
  const [whole, setWhole] = useState(false);
  if (typeof value === "string") {
    const cut = !whole && value.length > LONG;
    return (
      <span className="whitespace-pre-wrap text-good">
        "<Plain text={cut ? value.slice(0, LONG) : value} />"
        {cut && (
          <button type="button" className="ml-1 text-accent underline" onClick={() => setWhole(true)}>
            {value.length - LONG} more characters
          </button>
        )}
      </span>
    );
  }
  return <span className={value === null ? "text-faint" : "text-busy"}>{String(value)}</span>;
}

function Branch({ value, depth, name }: { value: object; depth: number; name: string | undefined }) {
  const entries: [string, unknown][] = Array.isArray(value) ? value.map((one, index) => [String(index), one]) : Object.entries(value);
  const [open, setOpen] = useState(depth < OPEN_DEPTH && entries.length <= MANY);
  const [shown, setShown] = useState(MANY);
  const [left, right] = Array.isArray(value) ? "[]" : "{}";
  if (!entries.length) return <div className={depth ? "pl-3.5" : ""}>{name !== undefined && <Name name={name} />}<span className="text-faint">{left}{right}</span></div>;
  return (
    <div>
      <button type="button" aria-expanded={open} onClick={() => setOpen(!open)} className="inline-flex items-center rounded text-left hover:bg-raised">
        <ChevronRight className={`size-3.5 shrink-0 text-faint transition-transform ${open ? "rotate-90" : ""}`} aria-hidden />
        {name !== undefined && <span className="mr-1.5"><Name name={name} /></span>}
        <span className="text-faint">{open ? left : `${left} ${entries.length} ${right}`}</span>
      </button>
      {open && (
        <div className="ml-1.5 border-l pl-1.5">
          {entries.slice(0, shown).map(([key, one]) => (
            <Node key={key} value={one} depth={depth + 1} name={key} />
          ))}
          {entries.length > shown && (
            <button type="button" className="ml-5 text-accent underline" onClick={() => setShown(shown + 10 * MANY)}>
              {entries.length - shown} more
            </button>
          )}
        </div>
      )}
      {open && <div className="pl-3.5 text-faint">{right}</div>}
    </div>
  );
}
