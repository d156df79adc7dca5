import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Pencil, Plus, Trash2 } from "lucide-react";
import { useId, useState, type FormEvent } from "react";
import { call } from "@/api/client";
import { agentsQuery, modelsQuery } from "@/api/queries";
import type { Model } from "@/api/types";
import { Button, IconButton } from "@/components/button";
import { Ask, Dialog } from "@/components/dialog";
import { Input } from "@/components/field";
import { Empty, Failure, Panel, Skeleton } from "@/components/panel";
import { Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { count } from "@/lib/format";
import { modelBody, modelDraft, modelPath, rate, RATES, unset, type ModelDraft, type ModelGiven } from "@/routes/models/read";

type Editing = { model?: ModelGiven };

export function Prices() {
  const { data, error, refetch } = useQuery(modelsQuery);
  const { data: agents } = useQuery(agentsQuery);
  const [editing, setEditing] = useState<Editing | null>(null);
  const [dropping, setDropping] = useState<Model | null>(null);
  const client = useQueryClient();
  const models = data?.items ?? [];
  const others = unset((agents?.items ?? []).flatMap((agent) => agent.model), models);
  const drop = async (model: Model) => {
    await call("DELETE", modelPath(model.provider, model.name));
    await client.invalidateQueries({ queryKey: modelsQuery.queryKey });
  };
  return (
    <Panel title="Prices" flush actions={<Button icon={<Plus className="size-4" aria-hidden />} onClick={() => setEditing({})}>Set a price</Button>}>
      <p className="border-b px-4 py-2.5 text-soft">US dollars for a million tokens. What is set here beats the table of genai-prices that comes with the package; a model nobody has a price for counts as $0, and a limit on money refuses it.</p>
      {error && <div className="p-4"><Failure error={error} retry={() => void refetch()} /></div>}
      {!data && !error && <div className="p-3"><Skeleton rows={3} /></div>}
      {data && !models.length && !others.length && <Empty title="No price is set here">Every model goes by the built-in table. Set one for a model of your own, or when a provider changes a price before the package does.</Empty>}
      <ul className="divide-y">
        {models.map((model) => <ModelRow key={`${model.provider}:${model.name}`} model={model} onEdit={() => setEditing({ model })} onDrop={() => setDropping(model)} />)}
        {others.map((name) => <OtherRow key={name} name={name} onSet={(model) => setEditing({ model })} />)}
      </ul>
      {editing && <ModelDialog {...editing} onClose={() => setEditing(null)} />}
      {dropping && (
        <Ask title={`Forget what is set of ${dropping.provider}:${dropping.name}?`} text="The built-in price and window hold again, within half a minute. What was spent stays as it was booked." action="Forget it" run={() => drop(dropping)} onClose={() => setDropping(null)} />
      )}
    </Panel>
  );
}

function ModelRow({ model, onEdit, onDrop }: { model: Model; onEdit: () => void; onDrop: () => void }) {
  const name = `${model.provider}:${model.name}`;
  return (
    <li className="relative grid gap-x-4 gap-y-2 px-4 py-3 lg:grid-cols-[minmax(0,1fr)_26rem_auto] lg:items-center">
      <div className="min-w-0">
        <h3 className="truncate pr-18 font-medium lg:pr-0"><span className="text-soft"><Plain text={model.provider} />:</span><Plain text={model.name} /></h3>
        <p className="flex flex-wrap items-center gap-x-2 text-[12.5px] text-soft">
          {model.price ? <Tag tone="busy">set by an operator</Tag> : <Tag>built-in price</Tag>}
          <Time at={model.updated_at} />
          {model.window_tokens !== null && <span>window {count(model.window_tokens)} tokens</span>}
        </p>
      </div>
      <dl className="grid grid-cols-4 gap-3">
        {RATES.map((one) => (
          <div key={one.name} className="min-w-0">
            <dt className="truncate text-[12.5px] text-soft">{one.label}</dt>
            <dd className="tabular">{rate(model.price?.[one.name]) ?? <span className="text-faint" title={one.name.startsWith("cache") && model.price ? "as the input" : "from the built-in table"}>{one.name.startsWith("cache") && model.price ? "as input" : "–"}</span>}</dd>
          </div>
        ))}
      </dl>
      <div className="absolute top-2 right-2 flex items-center gap-1 lg:static">
        <IconButton label={`Change ${name}`} onClick={onEdit}><Pencil className="size-4" aria-hidden /></IconButton>
        <IconButton label={`Forget what is set of ${name}`} onClick={onDrop}><Trash2 className="size-4" aria-hidden /></IconButton>
      </div>
    </li>
  );
}

/** A model that an agent names: its price is the table's, if the table has it. */
function OtherRow({ name, onSet }: { name: string; onSet: (model: ModelGiven) => void }) {
  const at = name.indexOf(":");
  const [provider, model] = [name.slice(0, at), name.slice(at + 1)];
  return (
    <li className="flex flex-wrap items-center justify-between gap-x-4 gap-y-2 px-4 py-3">
      <div className="min-w-0">
        <h3 className="truncate font-medium"><span className="text-soft"><Plain text={provider} />:</span><Plain text={model} /></h3>
        <p className="flex flex-wrap items-center gap-x-2 text-[12.5px] text-soft"><Tag>built-in price</Tag> or none; used by an agent</p>
      </div>
      <Button size="small" onClick={() => onSet({ provider, name: model })}>Set a price<span className="sr-only"> of {name}</span></Button>
    </li>
  );
}

function ModelDialog({ model, onClose }: Editing & { onClose: () => void }) {
  const [draft, setDraft] = useState<ModelDraft>(() => modelDraft(model));
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const client = useQueryClient();
  const form = useId();
  const change = (given: Partial<ModelDraft>) => setDraft((before) => ({ ...before, ...given }));
  const save = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await call("PUT", modelPath(draft.provider.trim(), draft.name.trim()), modelBody(draft));
      await client.invalidateQueries({ queryKey: modelsQuery.queryKey });
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog open onClose={onClose} title={model ? `${model.provider}:${model.name}` : "Set a price"} actions={<><Button onClick={onClose}>Cancel</Button><Button look="primary" type="submit" form={form} busy={busy}>Save</Button></>}>
      <form id={form} onSubmit={(event) => void save(event)} className="flex flex-col gap-4">
        {!model && (
          <div className="grid grid-cols-2 gap-4">
            <Input label="Provider" required autoFocus value={draft.provider} placeholder="openai" spellCheck={false} onChange={(event) => change({ provider: event.target.value })} />
            <Input label="Model" required value={draft.name} placeholder="gpt-5-mini" spellCheck={false} onChange={(event) => change({ name: event.target.value })} />
          </div>
        )}
        <fieldset>
          <legend className="mb-2 font-medium">US dollars for a million tokens</legend>
          <div className="grid grid-cols-2 gap-4">
            {RATES.map(({ name, label }) => (
              <Input key={name} label={label} inputMode="decimal" pattern="\d+(\.\d+)?" title="A decimal number, as 0.25" placeholder={name.startsWith("cache") ? "as input" : "0.00"} required={name === "input_usd" ? anyOther(draft, name) : name === "output_usd" && anyOther(draft, name)}
                value={draft.rates[name]} onChange={(event) => change({ rates: { ...draft.rates, [name]: event.target.value } })} />
            ))}
          </div>
        </fieldset>
        <Input label="Context window, in tokens" type="number" min={1000} value={draft.window} placeholder="built in" hint="A conversation that nears it is made smaller." onChange={(event) => change({ window: event.target.value })} />
        {error !== null && <Failure error={error} />}
      </form>
    </Dialog>
  );
}

/** A price has an input and an output, or there is none. */
function anyOther(draft: ModelDraft, name: string): boolean {
  return RATES.some((one) => one.name !== name && draft.rates[one.name].trim() !== "");
}
