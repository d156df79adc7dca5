import { lazy, Suspense, useState, type ReactNode } from "react";
import { CopyButton, Json } from "@/components/json";
import { Plain } from "@/components/text";

const Markdown = lazy(() => import("@/components/markdown"));

/** Return the words in a value that a model said: the value itself, or what it calls its text. */
export function wordsIn(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (value === null || typeof value !== "object" || Array.isArray(value)) return null;
  for (const name of ["text", "answer", "content"]) {
    const found = (value as Record<string, unknown>)[name];
    if (typeof found === "string" && found.length > 0) return found;
  }
  return null;
}

/** A value: as it is, and on request the words in it as a model meant them to be laid out. */
export function Value({ value, label }: { value: unknown; label: string }) {
  const words = wordsIn(value);
  if (words === null) return <Json value={value} label={label} />;
  return <Words words={words} label={label} json={typeof value === "string" ? null : <Json value={value} label={label} />} />;
}

type Look = "text" | "markdown" | "json";

/** Text of a model: plain unless somebody asks for more. */
export function Words({ words, label, json = null }: { words: string; label: string; json?: ReactNode }) {
  const [look, setLook] = useState<Look>(json ? "json" : "text");
  const looks: Look[] = json ? ["json", "text", "markdown"] : ["text", "markdown"];
  return (
    <div className="flex flex-col gap-1.5">
      <div role="group" aria-label={`How to show the ${label.toLowerCase()}`} className="flex items-center gap-0.5 self-end rounded-md border p-0.5">
        {looks.map((one) => (
          <button key={one} type="button" aria-pressed={look === one} onClick={() => setLook(one)} className={`rounded px-1.5 text-[11.5px] leading-5 ${look === one ? "bg-raised font-medium text-ink" : "text-soft hover:text-ink"}`}>
            {one === "json" ? "JSON" : one}
          </button>
        ))}
      </div>
      {look === "json" ? json : (
        <div className="group relative rounded-md border bg-raised/50">
          <div className="absolute top-1 right-1 opacity-0 group-hover:opacity-100 focus-within:opacity-100"><CopyButton text={() => words} /></div>
          <div tabIndex={0} role="group" aria-label={label} className="max-h-96 overflow-auto p-2.5">
            {look === "markdown" ? <Suspense fallback={<span className="text-soft">…</span>}><Markdown text={words} /></Suspense> : (
              <p className="text-[13px] leading-relaxed break-words whitespace-pre-wrap"><Plain text={words} /></p>
            )}
          </div>
        </div>
      )}
    </div>
  );
}
