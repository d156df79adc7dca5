import { useQueryClient } from "@tanstack/react-query";
import { TriangleAlert } from "lucide-react";
import { useId, useState, type FormEvent } from "react";
import { call, storedKey } from "@/api/client";
import { keysQuery } from "@/api/queries";
import { Button } from "@/components/button";
import { Dialog } from "@/components/dialog";
import { Input } from "@/components/field";
import { CopyButton } from "@/components/json";
import { Failure } from "@/components/panel";
import { takeKey } from "@/routes/settings/own-key";

const SCOPES = [
  { scope: "read", why: "see runs, agents, workers and what they cost" },
  { scope: "write", why: "start runs and send messages" },
  { scope: "operate", why: "cancel, redrive, approve, change agents and limits" },
  { scope: "admin", why: "make and revoke keys" },
] as const;

interface Props {
  /** There is no key yet: this one closes the server. */
  first: boolean;
  onClose: () => void;
}

/** A key that nobody may lose who closes this by mistake: once made, it stays until it is said to be kept. */
export function NewKey({ first, onClose }: Props) {
  const [made, setMade] = useState<string | null>(null);
  const client = useQueryClient();
  const done = () => {
    onClose();
    void client.invalidateQueries({ queryKey: keysQuery.queryKey });
  };
  return made === null ? <Form first={first} onMade={setMade} onClose={onClose} /> : <Made secret={made} onDone={done} />;
}

function Form({ first, onMade, onClose }: { first: boolean; onMade: (key: string) => void; onClose: () => void }) {
  const [name, setName] = useState("");
  const [days, setDays] = useState("");
  const [scopes, setScopes] = useState<string[]>(first ? SCOPES.map((one) => one.scope) : ["read", "write", "operate"]);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const form = useId();
  const client = useQueryClient();
  const toggle = (scope: string, yes: boolean) => setScopes(SCOPES.map((one) => one.scope).filter((one) => (one === scope ? yes : scopes.includes(one))));
  const make = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const { key } = await call<{ key: string }>("POST", "/keys", { name: name.trim(), scopes, ...(days ? { expires_in_days: Number(days) } : {}) });
      onMade(key);
      // From the first key on the server asks this browser for one too.
      if (first && !storedKey()) await takeKey(client, key);
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog open onClose={onClose} title="New key" actions={<><Button onClick={onClose}>Cancel</Button><Button look="primary" type="submit" form={form} busy={busy} disabled={!scopes.length || (first && !scopes.includes("admin"))}>Make the key</Button></>}>
      <form id={form} onSubmit={(event) => void make(event)} className="flex flex-col gap-4">
        {first && (
          <p className="flex gap-2 rounded-md bg-wait-soft px-3 py-2 text-wait">
            <TriangleAlert className="mt-0.5 size-4 shrink-0" aria-hidden />
            This is the first key: once it is made, the server refuses every request without one. This browser will use it; give your other clients one too. It has to have the scope admin.
          </p>
        )}
        <Input label="Name" required autoFocus maxLength={200} value={name} placeholder="on-call console" hint="Recorded as who did what." onChange={(event) => setName(event.target.value)} />
        <fieldset>
          <legend className="mb-1.5 font-medium">May</legend>
          <div className="flex flex-col gap-1.5">
            {SCOPES.map(({ scope, why }) => (
              <label key={scope} className="flex items-baseline gap-2">
                <input type="checkbox" checked={scopes.includes(scope)} onChange={(event) => toggle(scope, event.target.checked)} className="size-4 translate-y-0.5 accent-accent" />
                <span><span className="font-medium">{scope}</span> <span className="text-soft">{why}</span></span>
              </label>
            ))}
          </div>
        </fieldset>
        <Input label="Expires in days" type="number" min={1} max={3650} value={days} placeholder="never" onChange={(event) => setDays(event.target.value)} />
        {error !== null && <Failure error={error} />}
      </form>
    </Dialog>
  );
}

function Made({ secret, onDone }: { secret: string; onDone: () => void }) {
  return (
    <Dialog open onClose={() => undefined} title="The new key" actions={<Button look="primary" onClick={onDone}>I have kept it</Button>}>
      <div className="flex flex-col gap-3">
        <p className="text-soft">Copy it now: it is shown this once, and the server keeps only its digest.</p>
        <div className="flex items-center gap-2 rounded-md border bg-raised/50 py-1 pr-1 pl-3">
          <code aria-label="The key" className="min-w-0 flex-1 font-mono text-[12.5px] break-all select-all">{secret}</code>
          <CopyButton text={() => secret} label="Copy the key" />
        </div>
      </div>
    </Dialog>
  );
}
