import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { Plus, X } from "lucide-react";
import { useId, useState, type FormEvent, type ReactNode } from "react";
import { call } from "@/api/client";
import { agentsQuery, modelsQuery } from "@/api/queries";
import type { Agent } from "@/api/types";
import { Button, IconButton } from "@/components/button";
import { Dialog } from "@/components/dialog";
import { Input, Select, TextArea } from "@/components/field";
import { Failure } from "@/components/panel";
import { bodyOf, draftOf, newLimit, type Draft, type LimitDraft, type NumberName, type RunMeter } from "@/routes/agents/draft";
import { METERS, WINDOWS, windowText } from "@/routes/agents/meters";
import { ToolPicker } from "@/routes/agents/picker";

interface Props {
  /** The agent to change; without one, one is made. */
  agent?: Agent;
  onClose: () => void;
}

export function AgentDialog({ agent, onClose }: Props) {
  const [draft, setDraft] = useState<Draft>(() => draftOf(agent));
  const change = (given: Partial<Draft>) => setDraft((before) => ({ ...before, ...given }));
  const { busy, error, save } = useSave(agent, onClose);
  const form = useId();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    void save(draft);
  };
  return (
    <Dialog open onClose={onClose} wide title={agent ? `Edit ${agent.name}` : "New agent"}
      actions={<><Button onClick={onClose}>Cancel</Button><Button look="primary" type="submit" form={form} busy={busy}>{agent ? "Save" : "Create the agent"}</Button></>}>
      <form id={form} onSubmit={submit} className="flex flex-col gap-6">
        {agent && <p className="text-soft">Runs that were started keep what they have. Budgets over all runs hold at once, and what they had paused goes on.</p>}
        <Identity draft={draft} onChange={change} />
        <Section title="What it may call"><ToolPicker draft={draft} onChange={change} /></Section>
        <Section title="Each run" note="Empty is without a limit, or the server’s own."><RunLimits draft={draft} onChange={change} /></Section>
        <Section title="Budgets over all its runs"><Limits limits={draft.limits} onChange={(limits) => change({ limits })} /></Section>
        {error !== null && <Failure error={error} />}
      </form>
    </Dialog>
  );
}

function useSave(agent: Agent | undefined, onClose: () => void) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const client = useQueryClient();
  const navigate = useNavigate();
  const save = async (draft: Draft) => {
    setBusy(true);
    setError(null);
    try {
      const saved = await call<Agent>(agent ? "PUT" : "POST", agent ? `/agents/${agent.id}` : "/agents", bodyOf(draft));
      await client.invalidateQueries({ queryKey: agentsQuery.queryKey });
      // Back leads to the list, not to the form of what exists by now.
      if (agent) onClose();
      else await navigate({ to: "/agents/$id", params: { id: saved.id }, replace: true });
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return { busy, error, save };
}

function Section({ title, note, children }: { title: string; note?: string; children: ReactNode }) {
  return (
    <section className="flex flex-col gap-3 border-t pt-5">
      <div>
        <h3 className="font-semibold">{title}</h3>
        {note && <p className="text-[12.5px] text-soft">{note}</p>}
      </div>
      {children}
    </section>
  );
}

interface PartProps {
  draft: Draft;
  onChange: (change: Partial<Draft>) => void;
}

function Identity({ draft, onChange }: PartProps) {
  const { data } = useQuery(modelsQuery);
  const { data: agents } = useQuery(agentsQuery);
  const models = [...new Set(["default", "offline", ...(data?.items ?? []).map((one) => `${one.provider}:${one.name}`), ...(agents?.items ?? []).flatMap((one) => one.model)])];
  const list = useId();
  return (
    <div className="flex flex-col gap-4">
      <div className="grid gap-4 sm:grid-cols-2">
        <Input label="Name" required autoFocus value={draft.name} pattern="[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}" title="Letters, digits, _ . and -, beginning with a letter or a digit" spellCheck={false} autoComplete="off" onChange={(event) => onChange({ name: event.target.value })} />
        <div>
          <Input label="Model" list={list} value={draft.model} placeholder="default" spellCheck={false} hint="provider:model, a well-known name, default or offline" onChange={(event) => onChange({ model: event.target.value })} />
          <datalist id={list}>{models.map((one) => <option key={one} value={one} />)}</datalist>
        </div>
      </div>
      <TextArea label="Instructions" rows={6} value={draft.system} placeholder="You research a question and cite what you found." className="leading-6" onChange={(event) => onChange({ system: event.target.value })} />
    </div>
  );
}

const NUMBERS: readonly { name: NumberName; label: string; placeholder: string; step?: string }[] = [
  { name: "max_steps", label: "Calls of the model", placeholder: "25" },
  { name: "max_tokens", label: "Tokens of an answer", placeholder: "the model’s" },
  { name: "temperature", label: "Temperature", placeholder: "the model’s", step: "any" },
  { name: "concurrency", label: "Runs at once", placeholder: "no limit" },
  { name: "deadline_s", label: "Deadline in seconds", placeholder: "none", step: "any" },
  { name: "result_chars", label: "Characters of a result", placeholder: "20,000" },
];
const EACH: readonly { meter: RunMeter; label: string; step?: string }[] = [
  { meter: "tokens", label: "Tokens" },
  { meter: "tools", label: "Tool calls" },
  { meter: "microusd", label: "US dollars", step: "any" },
  { meter: "wall_clock_s", label: "Seconds" },
];

function RunLimits({ draft, onChange }: PartProps) {
  return (
    <>
      <div className="grid grid-cols-2 gap-4 sm:grid-cols-3">
        {NUMBERS.map(({ name, label, placeholder, step }) => (
          <Input key={name} label={label} type="number" min={0} step={step ?? "1"} placeholder={placeholder} value={draft.numbers[name]} onChange={(event) => onChange({ numbers: { ...draft.numbers, [name]: event.target.value } })} />
        ))}
      </div>
      <fieldset className="mt-1 rounded-md border p-3">
        <legend className="px-1 font-medium">May spend</legend>
        <div className="grid grid-cols-2 gap-4 sm:grid-cols-5">
          {EACH.map(({ meter, label, step }) => (
            <Input key={meter} label={label} type="number" min={0} step={step ?? "1"} placeholder="no limit" value={draft.run[meter]} onChange={(event) => onChange({ run: { ...draft.run, [meter]: event.target.value } })} />
          ))}
          <Select label="At a limit" value={draft.onRunLimit} onChange={(event) => onChange({ onRunLimit: event.target.value as "pause" | "fail" })}>
            <option value="fail">fail</option>
            <option value="pause">pause</option>
          </Select>
        </div>
      </fieldset>
    </>
  );
}

function Limits({ limits, onChange }: { limits: LimitDraft[]; onChange: (limits: LimitDraft[]) => void }) {
  const put = (at: number, given: Partial<LimitDraft>) => onChange(limits.map((one, index) => (index === at ? { ...one, ...given } : one)));
  return (
    <div className="flex flex-col gap-3">
      {limits.map((limit, index) => (
        <LimitFields key={index} no={index + 1} limit={limit} onChange={(given) => put(index, given)} onRemove={() => onChange(limits.filter((_, at) => at !== index))} />
      ))}
      <div><Button icon={<Plus className="size-4" aria-hidden />} onClick={() => onChange([...limits, newLimit])}>Add a budget</Button></div>
    </div>
  );
}

function LimitFields({ no, limit, onChange, onRemove }: { no: number; limit: LimitDraft; onChange: (given: Partial<LimitDraft>) => void; onRemove: () => void }) {
  const windows = WINDOWS.some((one) => one.seconds === limit.window_s) ? WINDOWS : [...WINDOWS, { seconds: limit.window_s, label: windowText(limit.window_s) }];
  return (
    <div role="group" aria-label={`Budget ${no}`} className="relative grid grid-cols-2 gap-3 rounded-md border p-3 pr-11 sm:flex sm:items-end">
      <Input label="At most" type="number" required min={0} step={limit.meter === "microusd" ? "any" : "1"} value={limit.cap} onChange={(event) => onChange({ cap: event.target.value })} />
      <Select label="Of" value={limit.meter} onChange={(event) => onChange({ meter: event.target.value })}>
        {METERS.map(({ meter, label }) => <option key={meter} value={meter}>{label}</option>)}
      </Select>
      {limit.meter === "tool:" && <Input label="Tool" required value={limit.tool} spellCheck={false} onChange={(event) => onChange({ tool: event.target.value })} />}
      <Select label="Within" value={limit.window_s} onChange={(event) => onChange({ window_s: Number(event.target.value) })}>
        {windows.map(({ seconds, label }) => <option key={seconds} value={seconds}>{label}</option>)}
      </Select>
      <Select label="Then runs" value={limit.on_limit} onChange={(event) => onChange({ on_limit: event.target.value as "pause" | "fail" })}>
        <option value="pause">pause</option>
        <option value="fail">fail</option>
      </Select>
      <IconButton label={`Remove budget ${no}`} className="!absolute top-1.5 right-1.5" onClick={onRemove}><X className="size-4" aria-hidden /></IconButton>
    </div>
  );
}
