import { useQuery } from "@tanstack/react-query";
import { ChevronRight } from "lucide-react";
import { useState } from "react";
import { Problem } from "@/api/client";
import { effectsQuery } from "@/api/queries";
import type { Effect } from "@/api/types";
import { CopyButton, Json } from "@/components/json";
import { Fact, Facts, Failure, Skeleton } from "@/components/panel";
import { Tag, type Tone } from "@/components/status";
import { Plain } from "@/components/text";
import { Time, Took } from "@/components/time";
import { count, money } from "@/lib/format";
import { Value } from "@/routes/run/step/value";

const STATE: Record<string, Tone> = { done: "good", failed: "bad", unknown: "bad", intended: "busy", begun: "busy", settled: "good" };

/** What the step asked of the world: recorded before and after each call. */
export function Effects({ run, step }: { run: string; step: string }) {
  const { data, error, refetch } = useQuery(effectsQuery(run, step));
  if (error) return <Unreadable error={error} retry={() => void refetch()} />;
  if (!data) return <Skeleton rows={2} />;
  if (!data.items.length) return <p className="text-soft">It called nothing that is recorded.</p>;
  return <ol className="flex flex-col divide-y rounded-md border">{data.items.map((one) => <li key={one.no}><One effect={one} /></li>)}</ol>;
}

function Unreadable({ error, retry }: { error: unknown; retry: () => void }) {
  if (error instanceof Problem && error.status === 404) {
    return <p className="rounded-md border bg-raised/50 px-3 py-2 text-soft">This server does not tell the calls of a step; a newer one does. Their events are in the record: see Events.</p>;
  }
  return <Failure error={error} retry={retry} />;
}

function One({ effect }: { effect: Effect }) {
  const [open, setOpen] = useState(false);
  const used = usageOf(effect);
  return (
    <>
      <button type="button" aria-expanded={open} onClick={() => setOpen(!open)} className="flex w-full flex-col gap-0.5 px-2 py-2 text-left hover:bg-raised">
        <span className="flex w-full items-center gap-1.5">
          <ChevronRight className={`size-3.5 shrink-0 text-soft transition-transform ${open ? "rotate-90" : ""}`} aria-hidden />
          <span className="tabular text-[12px] text-soft">#{effect.no}</span>
          <span className="min-w-0 truncate font-mono text-[12.5px]"><Plain text={effect.name} /></span>
          <span className="ml-auto flex shrink-0 items-center gap-1.5">
            {effect.sends > 1 && <span className="tabular text-[12px] text-wait">sent {effect.sends}×</span>}
            <Tag tone={STATE[effect.state] ?? "idle"}>{effect.state}</Tag>
          </span>
        </span>
        <span className="tabular flex flex-wrap gap-x-2 pl-5 text-[12px] text-soft">
          <span>{effect.class}</span>
          {used && <span>{used.model} · {count(used.input)} → {count(used.output)} tokens</span>}
          {effect.microusd !== null && effect.microusd > 0 && <span>{money(effect.microusd)}</span>}
          {effect.ended_at && <Took from={effect.at} to={effect.ended_at} />}
        </span>
      </button>
      {open && <Details effect={effect} />}
    </>
  );
}

interface Usage { model: string; provider: string; price: string; input: number; output: number; cacheRead: number; cacheWrite: number }

/** Return what a model's call used, or null for what is none. */
export function usageOf(effect: Pick<Effect, "usage">): Usage | null {
  const usage = effect.usage;
  if (!usage || (usage.input_tokens === undefined && usage.output_tokens === undefined)) return null;
  const number = (name: string) => (typeof usage[name] === "number" ? (usage[name] as number) : 0);
  const text = (name: string) => (typeof usage[name] === "string" ? (usage[name] as string) : "");
  return {
    model: text("model") || "model", provider: text("provider"), price: text("price"), input: number("input_tokens"), output: number("output_tokens"),
    cacheRead: number("cache_read_tokens"), cacheWrite: number("cache_write_tokens"),
  };
}

function Details({ effect }: { effect: Effect }) {
  const used = usageOf(effect);
  return (
    <div className="flex flex-col gap-3 px-3 pb-3 text-[12.5px]">
      <Facts>
        {used && (
          <>
            <Fact name="Model"><Plain text={[used.provider, used.model].filter(Boolean).join(" / ")} /></Fact>
            <Fact name="Tokens"><span className="tabular">{count(used.input)} in, {count(used.output)} out{used.cacheRead || used.cacheWrite ? `, cache ${count(used.cacheRead)} read, ${count(used.cacheWrite)} written` : ""}</span></Fact>
            <Fact name="Cost"><span className="tabular">{money(effect.microusd ?? 0)}</span> <span className="text-soft">{used.price ? `price: ${used.price}` : "no price is known"}</span></Fact>
          </>
        )}
        <Fact name="When"><Time at={effect.at} as="full" />{effect.worker && <> on <Plain text={effect.worker} /></>}, claim {effect.claim_no}</Fact>
        {effect.key && <Fact name="Key"><span className="flex items-center gap-1"><code className="min-w-0 truncate font-mono">{effect.key}</code><CopyButton text={() => effect.key!} label="Copy the idempotency key" /></span></Fact>}
      </Facts>
      {effect.error && <Block title="Error"><Json value={effect.error} label="Error" /></Block>}
      <Block title="Request"><Json value={effect.request} label="Request" /></Block>
      {effect.ended_at && !effect.error && <Block title="Result"><Value value={effect.result} label="Result" /></Block>}
    </div>
  );
}

function Block({ title, children }: { title: string; children: React.ReactNode }) {
  return <div className="flex flex-col gap-1"><h4 className="font-medium text-soft">{title}</h4>{children}</div>;
}
