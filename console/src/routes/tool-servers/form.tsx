import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useId, useState, type FormEvent } from "react";
import { call } from "@/api/client";
import { serversQuery } from "@/api/queries";
import type { ToolServer } from "@/api/types";
import { Button } from "@/components/button";
import { Dialog } from "@/components/dialog";
import { Input, TextArea } from "@/components/field";
import { Failure } from "@/components/panel";

export interface ServerDraft {
  name: string;
  kind: "url" | "command";
  url: string;
  /** One argument a line: nothing has to be quoted. */
  command: string;
  token: string;
}

export function serverDraft(server?: ToolServer): ServerDraft {
  return { name: server?.name ?? "", kind: server?.command ? "command" : "url", url: server?.url ?? "", command: (server?.command ?? []).join("\n"), token: "" };
}

export function serverBody(draft: ServerDraft): Record<string, unknown> {
  const name = draft.name.trim();
  if (draft.kind === "command") return { name, command: draft.command.split("\n").filter((line) => line.trim()) };
  return { name, url: draft.url.trim(), ...(draft.token ? { token: draft.token } : {}) };
}

interface Props {
  server?: ToolServer;
  onClose: () => void;
}

export function ServerDialog({ server, onClose }: Props) {
  const [draft, setDraft] = useState(() => serverDraft(server));
  const change = (given: Partial<ServerDraft>) => setDraft((before) => ({ ...before, ...given }));
  const { busy, error, save } = useSave(server, onClose);
  const form = useId();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    void save(draft);
  };
  return (
    <Dialog open onClose={onClose} title={server ? `Change ${server.name}` : "Register a tool server"}
      actions={<><Button onClick={onClose}>Cancel</Button><Button look="primary" type="submit" form={form} busy={busy}>{server ? "Save" : "Register and discover"}</Button></>}>
      <form id={form} onSubmit={submit} className="flex flex-col gap-4" autoComplete="off">
        <Input label="Name" required autoFocus value={draft.name} pattern="[A-Za-z0-9][A-Za-z0-9_\-]{0,62}" title="Letters, digits, _ and -, beginning with a letter or a digit" spellCheck={false} hint="Its tools are NAME.TOOL in records and approvals." onChange={(event) => change({ name: event.target.value })} />
        <Kind kind={draft.kind} onChange={(kind) => change({ kind })} />
        {draft.kind === "url" ? <UrlFields draft={draft} server={server} onChange={change} /> : (
          <TextArea label="Command, one argument a line" required rows={4} value={draft.command} spellCheck={false} className="font-mono text-[12.5px]" placeholder={"/opt/tools/depot-server\n--stdio"} hint="Workers start it on their machines, with little more than PATH. It takes no token: let it be a script of yours that sets what it needs." onChange={(event) => change({ command: event.target.value })} />
        )}
        {error !== null && <Failure error={error} />}
      </form>
    </Dialog>
  );
}

function Kind({ kind, onChange }: { kind: ServerDraft["kind"]; onChange: (kind: ServerDraft["kind"]) => void }) {
  const name = useId();
  return (
    <fieldset>
      <legend className="mb-1 font-medium">It is reached by</legend>
      <div className="flex gap-4">
        {([["url", "a URL"], ["command", "a command"]] as const).map(([value, label]) => (
          <label key={value} className="inline-flex items-center gap-2">
            <input type="radio" name={name} checked={kind === value} onChange={() => onChange(value)} className="size-4 accent-accent" />
            {label}
          </label>
        ))}
      </div>
    </fieldset>
  );
}

function UrlFields({ draft, server, onChange }: { draft: ServerDraft; server: ToolServer | undefined; onChange: (given: Partial<ServerDraft>) => void }) {
  const moved = server?.url != null && draft.url.trim() !== server.url;
  const kept = server?.has_token === true && !moved;
  return (
    <>
      <Input label="URL" type="url" required value={draft.url} spellCheck={false} placeholder="https://tools.example.org/mcp" onChange={(event) => onChange({ url: event.target.value })}
        hint={moved ? "Another address is another server: its token and what was approved of it are dropped." : "Streamable HTTP. A private network needs DURABLE_AGENT_EGRESS_ALLOW."} />
      <Input label="Bearer token" type="password" autoComplete="new-password" value={draft.token} placeholder={kept ? "stored; type to replace it" : "none"} onChange={(event) => onChange({ token: event.target.value })}
        hint="Stored encrypted, sent to this URL only, and never shown again." />
    </>
  );
}

function useSave(server: ToolServer | undefined, onClose: () => void) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const client = useQueryClient();
  const navigate = useNavigate();
  const save = async (draft: ServerDraft) => {
    setBusy(true);
    setError(null);
    try {
      const saved = await call<ToolServer>(server ? "PUT" : "POST", server ? `/tool-servers/${server.id}` : "/tool-servers", serverBody(draft));
      // What it could not tell is on its row, which the next screen shows.
      if (saved.state === "new") await call("POST", `/tool-servers/${saved.id}/discover`).catch(() => undefined);
      await client.invalidateQueries({ queryKey: serversQuery.queryKey });
      if (server) onClose();
      else await navigate({ to: "/tool-servers/$id", params: { id: saved.id }, replace: true });
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return { busy, error, save };
}
