import { useQuery } from "@tanstack/react-query";
import { Plus, X } from "lucide-react";
import { useId, useState } from "react";
import { serverQuery, serversQuery, workersQuery } from "@/api/queries";
import type { ToolServer, Worker } from "@/api/types";
import { Button, IconButton } from "@/components/button";
import { Checkbox, Input } from "@/components/field";
import { Tag } from "@/components/status";
import { Plain } from "@/components/text";
import type { Draft } from "@/routes/agents/draft";
import { StateTag } from "@/routes/tool-servers/states";

// Workers offer these as kinds of steps; a model cannot call them.
const KINDS = new Set(["agent", "approval", "input", "llm_call", "map", "noop", "policy", "run", "signal", "sleep", "transform"]);

/** What living workers offer that a model may call, by name. */
export function offered(workers: readonly Worker[]): string[] {
  const alive = workers.filter((worker) => worker.state === "active" || worker.state === "draining");
  return [...new Set(alive.flatMap((worker) => worker.offers))].filter((name) => !KINDS.has(name) && !name.includes(".when.")).sort();
}

interface Props {
  draft: Draft;
  onChange: (change: Partial<Draft>) => void;
}

/** What an agent may call: tools of workers, tools of servers, and which of them a person approves each time. */
export function ToolPicker({ draft, onChange }: Props) {
  const asks = (name: string, yes: boolean) => onChange({ approve: yes ? [...new Set([...draft.approve, name])] : draft.approve.filter((one) => one !== name) });
  return (
    <div className="flex flex-col gap-4">
      <AddTool has={draft.tools} onAdd={(name) => onChange({ tools: [...draft.tools, name] })} />
      {draft.tools.length > 0 && (
        <ul aria-label="Tools" className="divide-y rounded-md border">
          {draft.tools.map((name) => (
            <li key={name} className="relative flex flex-wrap items-center gap-x-3 gap-y-1 py-1.5 pr-11 pl-3">
              <code className="min-w-0 flex-1 basis-36 truncate font-mono text-[12.5px]"><Plain text={name} /></code>
              <AsksPerson name={name} draft={draft} onChange={asks} />
              <IconButton label={`Remove ${name}`} className="!absolute top-0.5 right-1" onClick={() => onChange({ tools: draft.tools.filter((one) => one !== name) })}><X className="size-4" aria-hidden /></IconButton>
            </li>
          ))}
        </ul>
      )}
      <Servers draft={draft} onChange={onChange} asks={asks} />
    </div>
  );
}

function AsksPerson({ name, draft, onChange }: { name: string; draft: Draft; onChange: (name: string, yes: boolean) => void }) {
  return (
    <span className="text-[12.5px] text-soft">
      <Checkbox label="a person approves each call" aria-label={`A person approves each call of ${name}`} checked={draft.approve.includes(name)} onChange={(event) => onChange(name, event.target.checked)} />
    </span>
  );
}

function AddTool({ has, onAdd }: { has: readonly string[]; onAdd: (name: string) => void }) {
  const { data } = useQuery(workersQuery);
  const [name, setName] = useState("");
  const list = useId();
  const wanted = name.trim();
  const add = () => {
    if (wanted && !has.includes(wanted)) onAdd(wanted);
    setName("");
  };
  const offers = offered(data?.items ?? []).filter((one) => !has.includes(one));
  const unknown = wanted !== "" && data !== undefined && !offered(data.items).includes(wanted);
  return (
    <div className="flex items-start gap-2">
      <div className="min-w-0 flex-1">
        <Input
          label="Add a tool" list={list} value={name} placeholder="web_search" autoComplete="off" spellCheck={false}
          hint={unknown ? "No worker that lives offers a tool of this name." : undefined}
          onChange={(event) => setName(event.target.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter") return;
            event.preventDefault();
            add();
          }}
        />
        <datalist id={list}>{offers.map((one) => <option key={one} value={one} />)}</datalist>
      </div>
      <Button className="mt-[25px]" icon={<Plus className="size-4" aria-hidden />} disabled={!wanted} onClick={add}>Add</Button>
    </div>
  );
}

function Servers({ draft, onChange, asks }: Props & { asks: (name: string, yes: boolean) => void }) {
  const { data } = useQuery(serversQuery);
  if (!data?.items.length) return null;
  const toggle = (name: string, yes: boolean) => onChange({ tool_servers: yes ? [...draft.tool_servers, name] : draft.tool_servers.filter((one) => one !== name) });
  return (
    <fieldset className="flex flex-col gap-2">
      <legend className="mb-1 font-medium">Tool servers</legend>
      {data.items.map((server) => {
        const on = draft.tool_servers.includes(server.name);
        return (
          <div key={server.id} className="rounded-md border">
            <div className="flex items-center justify-between gap-3 px-3 py-1.5">
              <Checkbox label={server.name} checked={on} onChange={(event) => toggle(server.name, event.target.checked)} />
              <StateTag state={server.state} />
            </div>
            {on && <ServerTools server={server} draft={draft} asks={asks} />}
          </div>
        );
      })}
    </fieldset>
  );
}

function ServerTools({ server, draft, asks }: { server: ToolServer; draft: Draft; asks: (name: string, yes: boolean) => void }) {
  const { data } = useQuery(serverQuery(server.id));
  const tools = (data ?? server).tools ?? [];
  return (
    <ul aria-label={`Tools of ${server.name}`} className="divide-y border-t">
      {!tools.length && <li className="px-3 py-1.5 text-[12.5px] text-soft">Its tools are not known yet: discover it first.</li>}
      {tools.map((tool) => (
        <li key={tool.name} className="flex flex-wrap items-center gap-x-3 gap-y-1 px-3 py-1.5">
          <code className="min-w-0 flex-1 basis-36 truncate font-mono text-[12.5px]"><Plain text={tool.name} /></code>
          {tool.effect === "manual" && <Tag tone="wait">changes things</Tag>}
          <AsksPerson name={`${server.name}.${tool.name}`} draft={draft} onChange={asks} />
        </li>
      ))}
    </ul>
  );
}
