import { Link } from "@tanstack/react-router";
import { CheckCircle2, Hand, HelpCircle, MessageCircleQuestion, Users } from "lucide-react";
import type { ReactNode } from "react";
import type { Wait } from "@/api/types";
import { CopyButton } from "@/components/json";
import { Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { Time, useNow } from "@/components/time";
import { duration } from "@/lib/format";
import { AnswerForm } from "@/routes/waits/answers";
import { asked, canonical, decisionWord, type Winner } from "@/routes/waits/asked";

/** What became of a wait while this screen was open: answered here, or by somebody faster. */
export interface Settled {
  wait: Wait;
  outcome: "here" | "elsewhere";
  winner: Winner | null;
}

const KINDS: Record<string, { label: string; icon: ReactNode }> = {
  approval: { label: "Approval", icon: <Hand className="size-3.5" aria-hidden /> },
  input: { label: "Question", icon: <MessageCircleQuestion className="size-3.5" aria-hidden /> },
  unknown_effect: { label: "Unknown effect", icon: <HelpCircle className="size-3.5" aria-hidden /> },
};

export function WaitHead({ wait }: { wait: Wait }) {
  const kind = KINDS[wait.kind] ?? { label: wait.kind, icon: null };
  return (
    <p className="flex flex-wrap items-center gap-x-2 gap-y-1 text-[12.5px] text-soft">
      <Tag tone="wait">{kind.icon}{kind.label}</Tag>
      <Link to="/runs/$id" params={{ id: wait.run_id }} search={{}} className="min-w-0 truncate text-accent hover:underline"><Plain text={wait.goal ?? `run ${wait.run_id.slice(-8)}`} /></Link>
      <span aria-hidden>/</span>
      <Link to="/runs/$id" params={{ id: wait.run_id }} search={{ step: wait.step }} className="min-w-0 truncate font-mono text-ink hover:underline"><Plain text={wait.step} /></Link>
    </p>
  );
}

/** How long a wait can still be answered. */
function Expiry({ at }: { at: string }) {
  const left = (Date.parse(at) - useNow()) / 1000;
  if (left <= 0) return <span className="text-bad">expired</span>;
  return <span className={left < 600 ? "font-medium text-bad" : left < 3600 ? "text-wait" : ""} title={new Date(at).toISOString()}>expires in <span className="tabular">{duration(left)}</span></span>;
}

interface CardProps {
  wait: Wait;
  onSettled: (settled: Settled) => void;
  onTouch: () => void;
}

export function OpenCard({ wait, onSettled, onTouch }: CardProps) {
  return (
    <article aria-labelledby={`${wait.id}-asked`} className="rounded-lg border bg-panel" onInput={onTouch}>
      <div className="flex flex-col gap-3 p-4 md:p-5">
        <div className="flex flex-wrap items-center justify-between gap-2">
          <WaitHead wait={wait} />
          <p className="flex gap-3 text-[12.5px] text-soft"><span>asked <Time at={wait.opened_at} /></span>{wait.expires_at && <Expiry at={wait.expires_at} />}</p>
        </div>
        <h2 id={`${wait.id}-asked`} className="text-base leading-6 font-semibold break-words whitespace-pre-wrap"><Plain text={asked(wait)} /></h2>
        <Subject wait={wait} />
      </div>
      <div className="border-t bg-raised/30 p-4 md:px-5">
        <AnswerForm wait={wait} onSettled={onSettled} />
      </div>
    </article>
  );
}

/** Exactly what is decided about: the call with its arguments, each character of it to be seen. */
export function Subject({ wait }: { wait: Wait }) {
  const { tool, key, message, arguments: given } = wait.request as { tool?: unknown; key?: unknown; message?: unknown; arguments?: unknown };
  const called = typeof tool === "string" && tool ? tool : null;
  const bare = given === undefined || (typeof given === "object" && given !== null && !Object.keys(given).length);
  return (
    <>
      {wait.kind === "unknown_effect" && (
        <p className="max-w-[75ch] text-soft">
          A worker began this call and nobody heard the end of it. Ask the receiver{typeof key === "string" && key ? " for the key below" : ""} what became of it.
          {typeof message === "string" && message !== asked(wait) && <> <Plain text={message} /></>}
        </p>
      )}
      {(called || typeof key === "string") && (
        <dl className="flex flex-wrap gap-x-6 gap-y-1">
          {called && <Named name="Tool"><code className="font-mono"><Plain text={called} /></code></Named>}
          {typeof key === "string" && key && <Named name="Key"><code className="font-mono text-[12.5px] break-all"><Plain text={key} /></code><CopyButton text={() => key} label="Copy the key" /></Named>}
        </dl>
      )}
      {!bare && <Arguments value={given} sha256={wait.request_sha256} />}
    </>
  );
}

function Named({ name, children }: { name: string; children: ReactNode }) {
  return <div className="flex min-w-0 items-center gap-2"><dt className="text-soft">{name}</dt><dd className="flex min-w-0 items-center gap-1">{children}</dd></div>;
}

function Arguments({ value, sha256 }: { value: unknown; sha256: string | null }) {
  const text = canonical(value);
  return (
    <div className="overflow-hidden rounded-md border">
      <div className="flex h-8 items-center justify-between gap-2 border-b bg-raised/50 pr-1 pl-3 text-[12.5px] text-soft">
        <span>Arguments</span>
        <span className="flex items-center gap-1">
          {sha256 && <span title={`SHA-256 over the tool and these arguments: ${sha256}`}>sha256 <code className="font-mono">{sha256.slice(0, 12)}</code></span>}
          {sha256 && <CopyButton text={() => sha256} label="Copy the SHA-256" />}
        </span>
      </div>
      <pre tabIndex={0} role="group" aria-label="Arguments" className="max-h-80 overflow-auto p-3 font-mono text-[12.5px] leading-5 break-words whitespace-pre-wrap"><Plain text={text} /></pre>
    </div>
  );
}

export function SettledCard({ settled: { wait, outcome, winner } }: { settled: Settled }) {
  const here = outcome === "here";
  const word = winner ? decisionWord(winner.decision) : "answered";
  return (
    <div role="status" className="flex items-start gap-3 rounded-lg border border-dashed px-4 py-3 text-soft">
      {here ? <CheckCircle2 className="mt-0.5 size-4 shrink-0 text-good" aria-hidden /> : <Users className="mt-0.5 size-4 shrink-0 text-wait" aria-hidden />}
      <div className="min-w-0">
        <p className="break-words text-ink"><Plain text={asked(wait)} /></p>
        <p>
          {here ? `You ${word === "answered" ? "answered" : word} this.` : <>It is decided: {word}{winner?.by && <> by <span className="font-medium text-ink"><Plain text={winner.by} /></span></>} before your answer; nothing of yours was recorded.</>}
          {winner?.reason && <> Reason: <Plain text={winner.reason} /></>}{" "}
          <Link to="/runs/$id" params={{ id: wait.run_id }} search={{ step: wait.step }} className="text-accent underline">Open the run</Link>
        </p>
      </div>
    </div>
  );
}
