import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { Plus } from "lucide-react";
import type { ReactNode } from "react";
import { agentQuery, agentsQuery } from "@/api/queries";
import type { Agent } from "@/api/types";
import { Button } from "@/components/button";
import { Input } from "@/components/field";
import { Empty, Failure, Heading, Panel, Skeleton } from "@/components/panel";
import { Plain } from "@/components/text";
import { count, money } from "@/lib/format";
import { AgentDialog } from "@/routes/agents/form";
import { LimitLine } from "@/routes/agents/limits";
import { useSearchText } from "@/routes/agents/search";

const MANY = 8;
const COLUMNS = "md:grid-cols-[minmax(0,2fr)_3rem_6rem_4.5rem_4.5rem_minmax(9rem,1.2fr)]";

export function Agents(): ReactNode {
  const { data, error, refetch } = useQuery({ ...agentsQuery, refetchInterval: 10_000 });
  const [search, change] = useSearchText();
  const create = <Button look="primary" icon={<Plus className="size-4" aria-hidden />} onClick={() => change({ new: "yes" }, { push: true })}>New agent</Button>;
  return (
    <>
      <Heading title="Agents" note="Each is a model with instructions, the tools it may call, and how far it may go.">{data && data.items.length > 0 && create}</Heading>
      {error && <div className="mb-4"><Failure error={error} retry={() => void refetch()} /></div>}
      {!data && !error && <Skeleton />}
      {data && (data.items.length ? <List agents={data.items} q={search.q ?? ""} onQ={(q) => change({ q })} /> : <Panel><Nothing>{create}</Nothing></Panel>)}
      {search.new && <AgentDialog onClose={() => change({ new: undefined })} />}
    </>
  );
}

function Nothing({ children }: { children: ReactNode }) {
  return (
    <Empty title="No agent yet">
      <p className="mb-4">Make one: it works without a provider’s key, on the offline model. Runs of it survive the workers that carry them.</p>
      {children}
    </Empty>
  );
}

/** Whether an agent is what was typed: by its name, its model or a tool of it. */
export function matches(agent: Agent, q: string): boolean {
  const wanted = q.trim().toLowerCase();
  return [agent.name, agent.model, ...agent.tools, ...agent.tool_servers].some((one) => one.toLowerCase().includes(wanted));
}

function List({ agents, q, onQ }: { agents: Agent[]; q: string; onQ: (q: string) => void }) {
  const shown = agents.filter((agent) => matches(agent, q));
  return (
    <>
      {(agents.length > MANY || q) && (
        <div className="mb-3 max-w-sm"><Input label="Filter the agents" hideLabel type="search" placeholder="Name, model or tool" defaultValue={q} onChange={(event) => onQ(event.target.value)} /></div>
      )}
      <Panel flush>
        <div aria-hidden className={`hidden gap-x-6 border-b px-4 py-2 text-xs text-faint md:grid ${COLUMNS}`}>
          <span>Agent</span><span>Tools</span><span>Runs</span><span className="text-right">Tokens</span><span className="text-right">Spend</span><span>Budgets</span>
        </div>
        <ul className="divide-y">
          {shown.map((agent) => <Row key={agent.id} agent={agent} />)}
        </ul>
        {!shown.length && <Empty title="No agent is like that">Clear the filter to see all {agents.length}.</Empty>}
      </Panel>
    </>
  );
}

function Row({ agent }: { agent: Agent }) {
  const tools = agent.tools.length + agent.tool_servers.length;
  return (
    <li className={`relative grid grid-cols-2 gap-x-6 gap-y-2 px-4 py-3 hover:bg-raised/60 md:items-center ${COLUMNS}`}>
      <div className="col-span-2 min-w-0 md:col-span-1">
        <Link to="/agents/$id" params={{ id: agent.id }} className="font-medium after:absolute after:inset-0"><Plain text={agent.name} /></Link>
        <p className="truncate text-[12.5px] text-soft"><Plain text={agent.model} /></p>
      </div>
      <Cell name="Tools">{tools || <span className="text-faint">none</span>}</Cell>
      <Cell name="Runs">
        {count(agent.runs ?? 0)}
        {(agent.open_runs ?? 0) > 0 && <span className="ml-1.5 text-busy">{count(agent.open_runs ?? 0)} open</span>}
      </Cell>
      <Cell name="Tokens" right>{count(agent.tokens ?? 0)}</Cell>
      <Cell name="Spend" right>{money(agent.microusd ?? 0)}</Cell>
      <div className="col-span-2 min-w-0 md:col-span-1"><Budgets agent={agent} /></div>
    </li>
  );
}

function Cell({ name, right, children }: { name: string; right?: boolean; children: ReactNode }) {
  return (
    <div className={`tabular flex justify-between gap-2 ${right ? "md:justify-end" : "md:justify-start"}`}>
      <span className="text-soft md:sr-only">{name}</span>
      <span>{children}</span>
    </div>
  );
}

/** The list says what an agent's limits are, only the agent says how full: it is asked for those that have any. */
function Budgets({ agent }: { agent: Agent }) {
  const { data } = useQuery({ ...agentQuery(agent.id), enabled: agent.budgets.length > 0, staleTime: 15_000 });
  if (!agent.budgets.length) return <span className="text-[12.5px] text-faint">no limit over all runs</span>;
  if (!data) return <div className="h-4 animate-pulse rounded bg-raised" />;
  return <div className="flex flex-col gap-1.5">{data.budgets.slice(0, 3).map((limit) => <LimitLine key={`${limit.meter} ${limit.window_s}`} limit={limit} />)}</div>;
}
