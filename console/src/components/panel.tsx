import { CircleAlert, Inbox } from "lucide-react";
import type { ReactNode } from "react";
import { Problem } from "@/api/client";
import { Button } from "@/components/button";
import { Plain } from "@/components/text";

export function Panel({ title, actions, children, flush }: { title?: ReactNode; actions?: ReactNode; children: ReactNode; flush?: boolean }) {
  return (
    <section className="rounded-lg border bg-panel">
      {(title || actions) && (
        <header className="flex min-h-11 items-center justify-between gap-3 border-b px-4 py-1.5">
          <h2 className="font-semibold">{title}</h2>
          <div className="flex flex-wrap items-center gap-2">{actions}</div>
        </header>
      )}
      <div className={flush ? "" : "p-4"}>{children}</div>
    </section>
  );
}

/** The head of a screen: what it is, what can be done. */
export function Heading({ title, children, note }: { title: ReactNode; children?: ReactNode; note?: ReactNode }) {
  return (
    <div className="mb-4 flex flex-wrap items-center justify-between gap-3">
      <div className="min-w-0">
        <h1 className="text-xl font-semibold tracking-tight">{title}</h1>
        {note && <p className="mt-0.5 text-soft">{note}</p>}
      </div>
      {children && <div className="flex flex-wrap items-center gap-2">{children}</div>}
    </div>
  );
}

/** Nothing is there: why, and what to do. */
export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="flex flex-col items-center gap-2 px-6 py-12 text-center">
      <Inbox className="size-7 text-faint" aria-hidden />
      <p className="font-medium">{title}</p>
      {children && <div className="max-w-lg text-soft">{children}</div>}
    </div>
  );
}

/** What went wrong, by its problem document, and a way on. */
export function Failure({ error, retry }: { error: unknown; retry?: () => void }) {
  const problem = error instanceof Problem ? error : null;
  const message = problem ? problem.detail || problem.title : error instanceof Error ? error.message : String(error);
  return (
    <div role="alert" className="flex flex-wrap items-start gap-3 rounded-md border border-bad/30 bg-bad-soft px-3 py-2.5">
      <CircleAlert className="mt-0.5 size-4 shrink-0 text-bad" aria-hidden />
      <div className="min-w-0 flex-1">
        <p className="font-medium text-bad">{problem?.title ?? "That did not work"}</p>
        <p className="break-words whitespace-pre-wrap text-soft">
          {problem?.field && <code className="mr-1 font-mono text-bad">{problem.field}:</code>}
          <Plain text={message} />
        </p>
        {problem?.status === 401 && <p className="mt-1 text-soft">Enter an API key under Settings.</p>}
      </div>
      {retry && <Button size="small" onClick={retry}>Try again</Button>}
    </div>
  );
}

export function Skeleton({ rows = 5 }: { rows?: number }) {
  return (
    <div role="status" aria-label="Loading" className="flex flex-col gap-2 p-1">
      {Array.from({ length: rows }, (_, index) => (
        <div key={index} className="h-8 animate-pulse rounded-md bg-raised" />
      ))}
    </div>
  );
}

/** A list of names and values. */
export function Facts({ children }: { children: ReactNode }) {
  return <dl className="grid grid-cols-[max-content_1fr] gap-x-4 gap-y-1.5 [&_dd]:min-w-0 [&_dd]:break-words [&_dt]:text-soft">{children}</dl>;
}

export function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </>
  );
}
