import { useEffect, useRef } from "react";
import type { ServerTool } from "@/api/types";
import { Input } from "@/components/field";
import { Json } from "@/components/json";
import { Empty, Panel } from "@/components/panel";
import { Tag, type Tone } from "@/components/status";
import { Plain } from "@/components/text";
import { useSearchText } from "@/routes/agents/search";

const MANY = 8;
const EFFECTS: Record<ServerTool["effect"], { label: string; tone: Tone; why: string }> = {
  safe: { label: "reads only", tone: "good", why: "safe: it may be called again at any time" },
  idempotent: { label: "repeatable", tone: "busy", why: "idempotent: a second call with the same key changes nothing more" },
  verify: { label: "verifiable", tone: "busy", why: "verify: after a crash it is asked whether the call happened" },
  manual: { label: "changes things", tone: "wait", why: "manual: after a crash in the middle of a call a person decides" },
};

export function EffectTag({ effect }: { effect: ServerTool["effect"] | undefined }) {
  if (!effect) return null;
  const { label, tone, why } = EFFECTS[effect];
  return <span title={why}><Tag tone={tone}>{label}</Tag></span>;
}

/** The tools that agents may call of a server; one is opened by the address. */
export function Tools({ server, tools }: { server: string; tools: ServerTool[] }) {
  const [search, change] = useSearchText();
  const q = (search.q ?? "").toLowerCase();
  const found = tools.filter((tool) => `${tool.name} ${tool.description}`.toLowerCase().includes(q));
  return (
    <Panel title={`Approved tools (${tools.length})`} flush
      actions={tools.length > MANY && <Input label="Filter the tools" hideLabel type="search" placeholder="Filter" defaultValue={search.q ?? ""} onChange={(event) => change({ q: event.target.value })} />}>
      {!tools.length && <Empty title="No tool is known">Discover the server: the first list it gives is taken as it is, every other one has to be approved here.</Empty>}
      {tools.length > 0 && !found.length && <Empty title="No tool is like that">Clear the filter to see all {tools.length}.</Empty>}
      <ul className="divide-y">
        {found.map((tool) => (
          <Tool key={tool.name} server={server} tool={tool} open={search.tool === tool.name} onOpen={(open) => change({ tool: open ? tool.name : undefined })} />
        ))}
      </ul>
    </Panel>
  );
}

function Tool({ server, tool, open, onOpen }: { server: string; tool: ServerTool; open: boolean; onOpen: (open: boolean) => void }) {
  const place = useRef<HTMLLIElement>(null);
  const first = useRef(open);
  useEffect(() => {
    // Only where the address led to: what is opened by hand is in sight already.
    if (first.current) place.current?.scrollIntoView({ block: "center" });
  }, []);
  return (
    <li ref={place} className="px-4 py-3">
      <div className="flex flex-wrap items-center gap-x-3 gap-y-1">
        <h3 className="min-w-0 font-mono text-[13px] font-medium break-all"><Plain text={tool.name} /></h3>
        <EffectTag effect={tool.effect} />
        <button type="button" aria-expanded={open} onClick={() => onOpen(!open)} className="ml-auto rounded text-[12.5px] text-accent hover:underline">
          {open ? "hide the arguments" : argumentsText(tool)}<span className="sr-only"> of {tool.name}</span>
        </button>
      </div>
      {tool.description && <p className="mt-1 max-w-3xl break-words whitespace-pre-wrap text-soft"><Plain text={tool.description} /></p>}
      {open && (
        <div className="mt-3 flex flex-col gap-2">
          <p className="text-[12.5px] text-soft">In records and for approvals it is <code className="font-mono text-ink"><Plain text={`${server}.${tool.name}`} /></code>.</p>
          <Json value={tool.parameters} label={`Arguments of ${tool.name}`} />
        </div>
      )}
    </li>
  );
}

/** How many arguments a tool takes, as its schema says. */
export function argumentsText(tool: ServerTool): string {
  const names = Object.keys((tool.parameters.properties as object | undefined) ?? {});
  return names.length === 0 ? "no arguments" : names.length === 1 ? "1 argument" : `${names.length} arguments`;
}
