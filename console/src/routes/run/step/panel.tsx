import { Dialog as Base } from "@base-ui/react/dialog";
import { useQuery } from "@tanstack/react-query";
import { ArrowDownToLine, RotateCcw, X } from "lucide-react";
import { useMemo, useSyncExternalStore, type ReactNode } from "react";
import { download } from "@/api/client";
import { artifactsQuery } from "@/api/queries";
import type { Event, Run, Step } from "@/api/types";
import { Button, IconButton } from "@/components/button";
import { CopyButton, Json } from "@/components/json";
import { Fact, Facts } from "@/components/panel";
import { Status } from "@/components/status";
import { Plain } from "@/components/text";
import { Time, Took } from "@/components/time";
import { bytes, count, duration, money } from "@/lib/format";
import type { Speech } from "@/live/run";
import { KindIcon } from "@/routes/run/kind";
import { tracksOf } from "@/routes/run/spans";
import { Attempts } from "@/routes/run/step/attempts";
import { Effects } from "@/routes/run/step/effects";
import { Value } from "@/routes/run/step/value";

interface Props {
  run: Run;
  step: Step;
  events: readonly Event[];
  speech: Speech;
  onClose: () => void;
  onSelect: (name: string) => void;
  onReplay: (from: string) => void;
}

const wide = typeof matchMedia === "function" ? matchMedia("(min-width: 1024px)") : null;
const subscribe = (listener: () => void) => {
  wide?.addEventListener("change", listener);
  return () => wide?.removeEventListener("change", listener);
};

/** The step beside the view where there is room, above it where there is none. */
export function StepPanel(props: Props) {
  const beside = useSyncExternalStore(subscribe, () => wide?.matches ?? true);
  if (beside) {
    return (
      <aside aria-label={`Step ${props.step.name}`} className="relative w-[26rem] shrink-0">
        <div className="absolute inset-0 flex flex-col overflow-hidden rounded-lg border bg-panel">
          <Head {...props} title={<h2 className="min-w-0 flex-1 truncate font-semibold" title={props.step.name}><Plain text={props.step.name} /></h2>} />
          <div tabIndex={0} role="group" aria-label="The step" className="min-h-0 flex-1 overflow-auto"><Body {...props} /></div>
        </div>
      </aside>
    );
  }
  return (
    <Base.Root open onOpenChange={(open) => !open && props.onClose()}>
      <Base.Portal>
        <Base.Backdrop className="fixed inset-0 z-40 bg-black/40" />
        <Base.Popup className="fixed inset-x-0 bottom-0 z-50 flex h-[88dvh] flex-col overflow-hidden rounded-t-xl border-t bg-panel shadow-2xl">
          <Head {...props} title={<Base.Title className="min-w-0 flex-1 truncate font-semibold"><Plain text={props.step.name} /></Base.Title>} />
          <div tabIndex={0} role="group" aria-label="The step" className="min-h-0 flex-1 overflow-auto"><Body {...props} /></div>
        </Base.Popup>
      </Base.Portal>
    </Base.Root>
  );
}

function Head({ step, title, onClose }: Props & { title: ReactNode }) {
  return (
    <header className="flex h-11 shrink-0 items-center gap-2 border-b pr-1.5 pl-4">
      <span className="text-soft"><KindIcon step={step} className="size-4" /></span>
      {title}
      <Status status={step.status} small />
      <IconButton label="Close the step" onClick={onClose}><X className="size-4" aria-hidden /></IconButton>
    </header>
  );
}

function Body({ run, step, events, speech, onSelect, onReplay }: Props) {
  const own = useMemo(() => events.filter((event) => event.step === step.name), [events, step.name]);
  const track = useMemo(() => tracksOf(own).get(step.name), [own, step.name]);
  const said = saying(step, own, speech);
  const begun = step.status !== "pending" && step.status !== "ready";
  return (
    <div className="flex flex-col gap-5 p-4">
      {step.error && <Broken error={step.error} step={step} />}
      {said.map(([no, words]) => <Speaking key={no} no={no} words={words} />)}
      <Figures step={step} onSelect={onSelect} />
      {step.status === "succeeded" && <Section title="Output"><Value value={step.output} label="Output" /></Section>}
      <Section title="Input"><Json value={step.input} label="Input" /></Section>
      <Section title="Attempts">{step.shared ? <Shared run={run} /> : <Attempts attempts={track?.attempts ?? []} />}</Section>
      {begun && !step.shared && <Section title="Calls"><Effects run={run.id} step={step.name} /></Section>}
      <Artifacts run={run.id} step={step.name} />
      <Policy step={step} />
      {!step.spawned_by && !step.compensates && (
        <div className="border-t pt-4"><Button icon={<RotateCcw className="size-4" aria-hidden />} onClick={() => onReplay(step.name)}>Replay from here</Button></div>
      )}
    </div>
  );
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return <section className="flex flex-col gap-2"><h3 className="text-[12.5px] font-semibold text-soft">{title}</h3>{children}</section>;
}

function Shared({ run }: { run: Run }) {
  return <p className="text-soft">Its result is taken from run <code className="font-mono">{run.origin?.slice(-8) ?? "before"}</code>; nothing was called here.</p>;
}

/** Why a step gave up: the class, the reason, the words. */
function Broken({ error, step }: { error: Record<string, unknown>; step: Step }) {
  const text = (name: string) => (typeof error[name] === "string" ? (error[name] as string) : null);
  const head = [text("failure"), text("error_type")].filter(Boolean).join(" · ");
  return (
    <section aria-label="Error" className="flex flex-col gap-1.5 rounded-md border border-bad/30 bg-bad-soft px-3 py-2.5">
      <p className="font-medium text-bad"><Plain text={text("reason")?.replaceAll("_", " ") ?? (head || "It failed")} /></p>
      {head && text("reason") && <p className="text-[12.5px] text-soft"><Plain text={head} /> · {step.failures} failures, {step.crashes} leases lost</p>}
      <p className="max-h-48 overflow-auto break-words whitespace-pre-wrap" tabIndex={0}><Plain text={text("message") ?? JSON.stringify(error)} /></p>
    </section>
  );
}

/** Return what is being said by calls that no event has ended yet. */
export function saying(step: Pick<Step, "name" | "status">, own: readonly Event[], speech: Speech): [string, string][] {
  if (step.status !== "running") return [];
  const ended = new Set(own.filter((event) => event.type === "effect.recorded").map((event) => String(event.data.effect)));
  const prefix = `${step.name}#`;
  return Object.entries(speech)
    .filter(([name]) => name.startsWith(prefix) && !ended.has(name.slice(prefix.length)))
    .map(([name, words]) => [name.slice(prefix.length), words]);
}

function Speaking({ no, words }: { no: string; words: string }) {
  return (
    <section aria-label={`Call ${no} answers`} className="rounded-md border border-busy/30 bg-busy-soft px-3 py-2.5">
      <p className="mb-1 flex items-center gap-1.5 text-[12.5px] font-medium text-busy"><span className="size-1.5 animate-pulse rounded-full bg-current" aria-hidden />the model answers</p>
      <p tabIndex={0} data-speech={no} className="flex max-h-72 flex-col-reverse overflow-auto text-[13px] leading-relaxed break-words whitespace-pre-wrap"><span><Plain text={words} /></span></p>
    </section>
  );
}

function Figures({ step, onSelect }: { step: Step; onSelect: (name: string) => void }) {
  return (
    <Facts>
      <Fact name="Kind"><Plain text={step.kind} />{step.tool && step.tool !== step.kind && <> · <code className="font-mono text-[12.5px]"><Plain text={step.tool} /></code></>}</Fact>
      {step.started_at && <Fact name="Started"><Time at={step.started_at} as="full" /></Fact>}
      {step.started_at && <Fact name="Took"><Took from={step.started_at} to={step.finished_at} /></Fact>}
      {step.worker && <Fact name="Worker"><Plain text={step.worker} /></Fact>}
      {step.not_before && step.status === "ready" && <Fact name="Next attempt"><Time at={step.not_before} /></Fact>}
      {(step.tokens ?? 0) > 0 && <Fact name="Used"><span className="tabular">{count(step.tokens)} tokens in {count(step.calls)} {step.calls === 1 ? "call" : "calls"}, {money(step.microusd ?? 0)}</span></Fact>}
      {step.when && <Fact name="Only if"><code className="font-mono text-[12.5px]"><Plain text={step.when} /></code></Fact>}
      {step.depends_on.length > 0 && <Fact name="After"><Names names={step.depends_on} onSelect={onSelect} /></Fact>}
      {step.spawned_by && <Fact name="Added by"><Names names={[step.spawned_by]} onSelect={onSelect} /></Fact>}
      {step.compensates && <Fact name="Undoes"><Names names={[step.compensates]} onSelect={onSelect} /></Fact>}
      {step.edited && <Fact name="Edited">by hand, for this replay</Fact>}
    </Facts>
  );
}

const MANY = 8;

function Names({ names, onSelect }: { names: readonly string[]; onSelect: (name: string) => void }) {
  return (
    <span className="flex flex-wrap gap-x-2 gap-y-0.5">
      {names.slice(0, MANY).map((name) => <button key={name} type="button" className="max-w-full truncate text-accent hover:underline" onClick={() => onSelect(name)}><Plain text={name} /></button>)}
      {names.length > MANY && <span className="text-soft">and {names.length - MANY} more</span>}
    </span>
  );
}

function Artifacts({ run, step }: { run: string; step: string }) {
  const { data } = useQuery(artifactsQuery(run));
  const own = data?.items.filter((one) => one.step === step) ?? [];
  if (!own.length) return null;
  return (
    <Section title="Artifacts">
      <ul className="flex flex-col divide-y rounded-md border">
        {own.map((one) => (
          <li key={one.id} className="flex items-center gap-2 py-1 pr-1 pl-3">
            <span className="min-w-0 flex-1 truncate"><Plain text={one.name} /></span>
            <span className="tabular shrink-0 text-[12px] text-soft"><Plain text={one.media_type} /> · {bytes(one.bytes)}</span>
            <CopyButton text={() => one.sha256} label={`Copy the SHA-256 of ${one.name}`} />
            <IconButton label={`Download ${one.name}`} className="size-7" onClick={() => void download(`/artifacts/${one.id}`, one.name)}><ArrowDownToLine className="size-3.5" aria-hidden /></IconButton>
          </li>
        ))}
      </ul>
    </Section>
  );
}

function Policy({ step }: { step: Step }) {
  const wait = step.retry as { base_s?: number; factor?: number; cap_s?: number };
  return (
    <Section title="Policy">
      <Facts>
        <Fact name="Attempts"><span className="tabular">at most {step.max_attempts}; {step.failures} failed</span></Fact>
        {wait.base_s !== undefined && <Fact name="Backoff"><span className="tabular">from {duration(wait.base_s)}, × {wait.factor ?? 1}, at most {duration(wait.cap_s ?? wait.base_s)}</span></Fact>}
        <Fact name="Crashes"><span className="tabular">given up after {step.max_crashes} leases lost in a row; {step.crashes} so far</span></Fact>
        {step.deadline_s !== null && <Fact name="Deadline"><span className="tabular">{duration(step.deadline_s)}{step.timeout_s !== null && <>; {duration(step.timeout_s)} an attempt</>}</span></Fact>}
        <Fact name="Queue"><Plain text={step.queue} />{step.priority !== 0 && <>, priority {step.priority}</>}</Fact>
        {step.compensate && <Fact name="Undone by"><code className="font-mono text-[12.5px]"><Plain text={step.compensate} /></code></Fact>}
      </Facts>
    </Section>
  );
}
