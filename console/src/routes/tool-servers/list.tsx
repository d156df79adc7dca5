import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { KeyRound, Plus } from "lucide-react";
import type { ReactNode } from "react";
import { serversQuery } from "@/api/queries";
import type { ToolServer } from "@/api/types";
import { Button } from "@/components/button";
import { Input } from "@/components/field";
import { Empty, Failure, Heading, Panel, Skeleton } from "@/components/panel";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { useSearchText } from "@/routes/agents/search";
import { ServerDialog } from "@/routes/tool-servers/form";
import { inOrder, placeOf, StateTag } from "@/routes/tool-servers/states";

const MANY = 8;

export function ToolServers(): ReactNode {
  const { data, error, refetch } = useQuery({ ...serversQuery, refetchInterval: 10_000 });
  const [search, change] = useSearchText();
  const register = <Button look="primary" icon={<Plus className="size-4" aria-hidden />} onClick={() => change({ new: "yes" }, { push: true })}>Register a server</Button>;
  return (
    <>
      <Heading title="Tool servers" note="MCP servers whose tools agents may call, each only as it was approved.">{data && data.items.length > 0 && register}</Heading>
      {error && <div className="mb-4"><Failure error={error} retry={() => void refetch()} /></div>}
      {!data && !error && <Skeleton />}
      {data && !data.items.length && (
        <Panel>
          <Empty title="No tool server yet">
            <p className="mb-4">Register one by its URL. It is asked at once what it offers; if it ever offers something else, nothing of it is called until you have looked.</p>
            {register}
          </Empty>
        </Panel>
      )}
      {data && data.items.length > 0 && <List servers={inOrder(data.items)} q={search.q ?? ""} onQ={(q) => change({ q })} />}
      {search.new && <ServerDialog onClose={() => change({ new: undefined })} />}
    </>
  );
}

function List({ servers, q, onQ }: { servers: ToolServer[]; q: string; onQ: (q: string) => void }) {
  const shown = servers.filter((server) => `${server.name} ${placeOf(server)} ${server.state}`.toLowerCase().includes(q.trim().toLowerCase()));
  return (
    <>
      {(servers.length > MANY || q) && (
        <div className="mb-3 max-w-sm"><Input label="Filter the servers" hideLabel type="search" placeholder="Name, address or state" defaultValue={q} onChange={(event) => onQ(event.target.value)} /></div>
      )}
      <Panel flush>
        <ul className="divide-y">{shown.map((server) => <Row key={server.id} server={server} />)}</ul>
        {!shown.length && <Empty title="No server is like that">Clear the filter to see all {servers.length}.</Empty>}
      </Panel>
    </>
  );
}

function Row({ server }: { server: ToolServer }) {
  const many = server.tools?.length ?? 0;
  return (
    <li className="relative grid gap-x-4 gap-y-1 px-4 py-3 hover:bg-raised/60 md:grid-cols-[minmax(0,1fr)_9rem_6rem_8rem] md:items-center">
      <div className="min-w-0">
        <Link to="/tool-servers/$id" params={{ id: server.id }} className="font-medium after:absolute after:inset-0"><Plain text={server.name} /></Link>
        <p className="flex items-center gap-1.5 text-soft">
          <span className="truncate font-mono text-[12.5px]"><Plain text={placeOf(server)} /></span>
          {server.has_token && <KeyRound className="size-3.5 shrink-0" role="img" aria-label="with a token" />}
        </p>
        {server.error && <p className="mt-1 text-[12.5px] break-words text-bad"><Plain text={server.error} /></p>}
      </div>
      <div className="flex items-center gap-4 md:contents">
        <span><StateTag state={server.state} /></span>
        <span className="tabular text-soft">{many === 1 ? "1 tool" : `${many} tools`}</span>
        <span className="text-[12.5px] text-soft md:text-right">{server.checked_at ? <Time at={server.checked_at} /> : "never checked"}</span>
      </div>
    </li>
  );
}
