import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Pencil, Plus } from "lucide-react";
import { useId, useState, type FormEvent } from "react";
import { call } from "@/api/client";
import { gatesQuery } from "@/api/queries";
import type { Gate } from "@/api/types";
import { Button, IconButton } from "@/components/button";
import { Dialog } from "@/components/dialog";
import { Input } from "@/components/field";
import { Empty, Failure, Panel, Skeleton } from "@/components/panel";
import { Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { Time, useNow } from "@/components/time";
import { count } from "@/lib/format";
import { gatesInOrder, gateState } from "@/routes/models/read";
import { Bar } from "@/routes/workers/bar";

const LIMITS = [
  { name: "requests_per_minute", label: "Requests a minute" },
  { name: "tokens_per_minute", label: "Tokens a minute" },
  { name: "concurrency", label: "Calls at once" },
] as const;

export function Gates() {
  const { data, error, refetch } = useQuery({ ...gatesQuery, refetchInterval: 5_000 });
  const [editing, setEditing] = useState<{ gate?: Gate } | null>(null);
  const now = useNow();
  return (
    <Panel title="Gates" flush actions={<Button icon={<Plus className="size-4" aria-hidden />} onClick={() => setEditing({})}>Set limits</Button>}>
      <p className="border-b px-4 py-2.5 text-soft">Limits hold for all workers together. Five failures in a row shut a gate; after a while one call is let through, and its end decides.</p>
      {error && <div className="p-4"><Failure error={error} retry={() => void refetch()} /></div>}
      {!data && !error && <div className="p-3"><Skeleton rows={3} /></div>}
      {data && !data.items.length && <Empty title="No gate yet">A gate appears with the first call of a provider, or when you set its limits, as for <code className="font-mono text-ink">provider:anthropic</code>.</Empty>}
      <ul className="divide-y">
        {gatesInOrder(data?.items ?? [], now).map((gate) => <GateRow key={gate.name} gate={gate} now={now} onEdit={() => setEditing({ gate })} />)}
      </ul>
      {editing && <GateDialog {...editing} onClose={() => setEditing(null)} />}
    </Panel>
  );
}

function GateRow({ gate, now, onEdit }: { gate: Gate; now: number; onEdit: () => void }) {
  const { label, tone, until } = gateState(gate, now);
  return (
    <li className="relative grid gap-x-4 gap-y-2 px-4 py-3 lg:grid-cols-[minmax(0,1fr)_26rem_auto] lg:items-center">
      <div className="min-w-0">
        <div className="flex flex-wrap items-center gap-2 pr-10 lg:pr-0">
          <h3 className="min-w-0 truncate font-medium"><Plain text={gate.name} /></h3>
          <Tag tone={tone}>{label}</Tag>
          {until && <span className="text-[12.5px] text-soft">{tone === "bad" ? "tries one call" : "until"} <Time at={until} /></span>}
        </div>
        {(gate.failures > 0 || tone === "bad") && (
          <p className="mt-0.5 text-[12.5px] break-words text-soft">
            {gate.failures === 1 ? "1 failure" : `${gate.failures} failures`} in a row{gate.opened_at && <>, shut <Time at={gate.opened_at} /></>}
            {gate.error && <>: <span className="text-bad"><Plain text={gate.error} /></span></>}
          </p>
        )}
      </div>
      <dl className="grid grid-cols-3 gap-3">
        <Figure name="Requests / min" value={gate.requests_per_minute} />
        <Figure name="Tokens / min" value={gate.tokens_per_minute} />
        <InUse gate={gate} />
      </dl>
      <div className="absolute top-2 right-2 lg:static"><IconButton label={`Change the limits of ${gate.name}`} onClick={onEdit}><Pencil className="size-4" aria-hidden /></IconButton></div>
    </li>
  );
}

function Figure({ name, value }: { name: string; value: number | null }) {
  return (
    <div className="min-w-0">
      <dt className="truncate text-[12.5px] text-soft">{name}</dt>
      <dd className="tabular">{value === null ? <span className="text-faint">no limit</span> : count(value)}</dd>
    </div>
  );
}

function InUse({ gate }: { gate: Gate }) {
  const text = gate.concurrency === null ? `${gate.in_use}` : `${gate.in_use} of ${gate.concurrency}`;
  return (
    <div className="min-w-0">
      <dt className="truncate text-[12.5px] text-soft">Calls at once</dt>
      <dd className="tabular flex flex-col gap-1">
        {gate.concurrency === null && !gate.in_use ? <span className="text-faint">no limit</span> : text}
        {gate.concurrency !== null && <Bar label={`Calls at once of ${gate.name}`} text={text} value={gate.in_use} cap={gate.concurrency} />}
      </dd>
    </div>
  );
}

function GateDialog({ gate, onClose }: { gate?: Gate; onClose: () => void }) {
  const [name, setName] = useState(gate?.name ?? "provider:");
  const [limits, setLimits] = useState(() => Object.fromEntries(LIMITS.map((one) => [one.name, String(gate?.[one.name] ?? "")])));
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const client = useQueryClient();
  const form = useId();
  const save = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const body = Object.fromEntries(LIMITS.map((one) => [one.name, limits[one.name]?.trim() ? Number(limits[one.name]) : null]));
      await call("PUT", `/gates/${encodeURIComponent(name.trim())}`, body);
      await client.invalidateQueries({ queryKey: gatesQuery.queryKey });
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog open onClose={onClose} title={gate ? `Limits of ${gate.name}` : "Set limits"} actions={<><Button onClick={onClose}>Cancel</Button><Button look="primary" type="submit" form={form} busy={busy}>Save</Button></>}>
      <form id={form} onSubmit={(event) => void save(event)} className="flex flex-col gap-4">
        {!gate && <Input label="Gate" required autoFocus value={name} pattern="(provider|tool):.+" title="provider:NAME or tool:NAME" spellCheck={false} hint="provider:NAME or tool:NAME" onChange={(event) => setName(event.target.value)} />}
        {LIMITS.map((one) => (
          <Input key={one.name} label={one.label} type="number" min={1} placeholder="no limit" value={limits[one.name] ?? ""} onChange={(event) => setLimits({ ...limits, [one.name]: event.target.value })} />
        ))}
        {error !== null && <Failure error={error} />}
      </form>
    </Dialog>
  );
}
