import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { Pencil, Play, Trash2 } from "lucide-react";
import { useState, type ReactNode } from "react";
import { call, get, queryOf } from "@/api/client";
import { agentQuery, agentsQuery, serversQuery } from "@/api/queries";
import type { Agent, Page, RunSummary } from "@/api/types";
import { Button, buttonClass } from "@/components/button";
import { Ask } from "@/components/dialog";
import { Empty, Fact, Facts, Failure, Heading, Panel, Skeleton } from "@/components/panel";
import { Status, Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { Time, Took } from "@/components/time";
import { count, duration, money, shortId } from "@/lib/format";
import { AgentDialog } from "@/routes/agents/form";
import { LimitCard } from "@/routes/agents/limits";
import { meterName, meterValue } from "@/routes/agents/meters";
import { useSearchText } from "@/routes/agents/search";
import { StateTag } from "@/routes/tool-servers/states";

const RECENT = 10;

export function AgentScreen(): ReactNode {
  const { id } = useParams({ strict: false }) as { id: string };
  const { data: agent, error, refetch } = useQuery({ ...agentQuery(id), refetchInterval: 10_000 });
  const [search, change] = useSearchText();
  if (!agent) return <><Heading title="Agent" />{error ? <Failure error={error} retry={() => void refetch()} /> : <Skeleton rows={8} />}</>;
  return (
    <>
      <Heading title={<Plain text={agent.name} />} note={<><code className="font-mono text-[12.5px]"><Plain text={agent.model} /></code> · version {agent.version}, changed <Time at={agent.updated_at} /></>}>
        <Link to="/new" search={{ agent: agent.name }} className={buttonClass("primary")}><Play className="size-4" aria-hidden />Start a run</Link>
        <Button icon={<Pencil className="size-4" aria-hidden />} onClick={() => change({ edit: "yes" }, { push: true })}>Edit</Button>
        <Delete agent={agent} />
      </Heading>
      {error && <div className="mb-4"><Failure error={error} retry={() => void refetch()} /></div>}
      <div className="grid gap-4 lg:grid-cols-[minmax(0,1fr)_22rem] lg:items-start">
        <div className="flex min-w-0 flex-col gap-4">
          <Instructions agent={agent} />
          <May agent={agent} />
          <RecentRuns name={agent.name} />
        </div>
        <div className="flex min-w-0 flex-col gap-4">
          <Figures id={agent.id} />
          <AllRuns agent={agent} />
          <EachRun agent={agent} />
        </div>
      </div>
      {search.edit && <AgentDialog agent={agent} onClose={() => change({ edit: undefined })} />}
    </>
  );
}

function Delete({ agent }: { agent: Agent }) {
  const [asking, setAsking] = useState(false);
  const client = useQueryClient();
  const navigate = useNavigate();
  const run = async () => {
    await call("DELETE", `/agents/${agent.id}`);
    await client.invalidateQueries({ queryKey: agentsQuery.queryKey, exact: true });
    await navigate({ to: "/agents" });
  };
  return (
    <>
      <Button look="danger" icon={<Trash2 className="size-4" aria-hidden />} onClick={() => setAsking(true)}>Delete</Button>
      {asking && <Ask title={`Delete ${agent.name}?`} text="No run can be started of it any more. Runs that were started go on to their end." action="Delete the agent" run={run} onClose={() => setAsking(false)} />}
    </>
  );
}

function Instructions({ agent }: { agent: Agent }) {
  return (
    <Panel title="Instructions">
      {agent.system ? (
        <div tabIndex={0} role="region" aria-label="Instructions" className="max-h-96 overflow-auto leading-6 break-words whitespace-pre-wrap"><Plain text={agent.system} /></div>
      ) : (
        <p className="text-soft">It is told nothing beside what each run asks.</p>
      )}
    </Panel>
  );
}

function May({ agent }: { agent: Agent }) {
  const approve = new Set(agent.approve);
  const tools = agent.tools;
  const servers = agent.tool_servers;
  const elsewhere = [...approve].filter((name) => !tools.includes(name));
  return (
    <Panel title="May call">
      {!tools.length && !servers.length && <p className="text-soft">Nothing. It answers with its model alone.</p>}
      <ul className="flex flex-wrap gap-2">
        {tools.map((name) => <Tool key={name} name={name} asks={approve.has(name)} />)}
        {servers.map((name) => <OfServer key={name} name={name} />)}
        {elsewhere.map((name) => <Tool key={name} name={name} asks />)}
      </ul>
    </Panel>
  );
}

/** All that a server offers; whether it can be called now is the server's state. */
function OfServer({ name }: { name: string }) {
  const { data } = useQuery(serversQuery);
  const server = data?.items.find((one) => one.name === name);
  return (
    <li className="inline-flex items-center gap-1.5 rounded-md border px-2 py-1 text-[12.5px]">
      every tool of
      {server ? <Link to="/tool-servers/$id" params={{ id: server.id }} className="font-mono text-accent hover:underline"><Plain text={name} /></Link> : <code className="font-mono"><Plain text={name} /></code>}
      {server && server.state !== "ready" && <StateTag state={server.state} />}
      {data && !server && <Tag tone="bad">not registered</Tag>}
    </li>
  );
}

function Tool({ name, asks }: { name: string; asks: boolean }) {
  return (
    <li className="inline-flex items-center gap-1.5 rounded-md border px-2 py-1 font-mono text-[12.5px]">
      <Plain text={name} />
      {asks && <span className="font-sans"><Tag tone="wait">asks a person</Tag></span>}
    </li>
  );
}

function RecentRuns({ name }: { name: string }) {
  const { data, error, refetch } = useQuery({
    queryKey: ["runs", { agent: name, limit: RECENT }],
    queryFn: ({ signal }) => get<Page<RunSummary>>(`/runs${queryOf({ agent: name, limit: RECENT })}`, signal),
  });
  return (
    <Panel title="Latest runs" flush actions={<Link to="/runs" search={{ agent: name }} className="text-accent hover:underline">All its runs</Link>}>
      {error && <div className="p-4"><Failure error={error} retry={() => void refetch()} /></div>}
      {!data && !error && <div className="p-3"><Skeleton rows={3} /></div>}
      {data && !data.items.length && <Empty title="It has not run yet">Start a run to see what it does, step by step.</Empty>}
      <ul className="divide-y">{data?.items.map((run) => <RunRow key={run.id} run={run} />)}</ul>
    </Panel>
  );
}

function RunRow({ run }: { run: RunSummary }) {
  return (
    <li className="relative flex flex-wrap items-center gap-x-3 gap-y-1 px-4 py-2 hover:bg-raised/60">
      <Status status={run.status} small />
      <Link to="/runs/$id" params={{ id: run.id }} className="min-w-0 flex-1 basis-40 truncate after:absolute after:inset-0">
        {run.goal ? <Plain text={run.goal} /> : <code className="font-mono text-[12.5px]">{shortId(run.id)}</code>}
      </Link>
      <span className="tabular flex basis-full gap-3 text-[12.5px] text-soft sm:basis-auto">
        <span>{count(run.input_tokens + run.output_tokens)} tokens</span>
        <span className="sm:w-16 sm:text-right"><Took from={run.started_at} to={run.finished_at} /></span>
        <span className="sm:w-24 sm:text-right"><Time at={run.created_at} /></span>
      </span>
    </li>
  );
}

/** What it has done is in the list of agents only. */
function Figures({ id }: { id: string }) {
  const { data } = useQuery(agentsQuery);
  const found = data?.items.find((one) => one.id === id);
  const figures: [string, string][] = [
    ["Open runs", count(found?.open_runs ?? 0)], ["Runs", count(found?.runs ?? 0)], ["Tokens", count(found?.tokens ?? 0)], ["Spend", money(found?.microusd ?? 0)],
  ];
  return (
    <Panel title="So far">
      <dl className="grid grid-cols-2 gap-x-4 gap-y-3">
        {figures.map(([name, value]) => (
          <div key={name} className="flex flex-col">
            <dt className="text-[12.5px] text-soft">{name}</dt>
            <dd className="tabular text-lg leading-6 font-semibold tracking-tight">{found ? value : "…"}</dd>
          </div>
        ))}
      </dl>
    </Panel>
  );
}

function AllRuns({ agent }: { agent: Agent }) {
  return (
    <Panel title="Budgets over all its runs">
      {agent.budgets.length ? (
        <ul className="flex flex-col gap-4">{agent.budgets.map((limit) => <LimitCard key={`${limit.meter} ${limit.window_s}`} limit={limit} />)}</ul>
      ) : (
        <p className="text-soft">None. Its runs together may spend without limit; each is held by its own.</p>
      )}
    </Panel>
  );
}

function EachRun({ agent }: { agent: Agent }) {
  return (
    <Panel title="Each run">
      <Facts>
        <Fact name="Calls of the model">at most {agent.max_steps ?? 25}</Fact>
        {agent.max_tokens != null && <Fact name="Each answer">at most {count(agent.max_tokens)} tokens</Fact>}
        {agent.temperature != null && <Fact name="Temperature">{agent.temperature}</Fact>}
        {agent.deadline_s != null && <Fact name="Deadline">{duration(agent.deadline_s)}</Fact>}
        {agent.result_chars != null && <Fact name="Of a tool’s result">{count(agent.result_chars)} characters</Fact>}
        <Fact name="At once">{agent.concurrency ? `${agent.concurrency} runs` : "as many as are started"}</Fact>
        {(agent.budget ?? []).map((one) => (
          <Fact key={one.meter} name={meterName(one.meter).replace(/^./, (first) => first.toUpperCase())}>
            at most {meterValue(one.meter, one.cap)}, then it {one.on_limit === "pause" ? "pauses" : "fails"}
          </Fact>
        ))}
      </Facts>
    </Panel>
  );
}
