import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { CircleAlert, Pencil, Radar, Trash2 } from "lucide-react";
import { useState, type ReactNode } from "react";
import { call } from "@/api/client";
import { serverQuery, serversQuery } from "@/api/queries";
import type { ToolServer } from "@/api/types";
import { Button } from "@/components/button";
import { Ask } from "@/components/dialog";
import { CopyButton } from "@/components/json";
import { Fact, Facts, Failure, Heading, Panel, Skeleton } from "@/components/panel";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { useSearchText } from "@/routes/agents/search";
import { Drift } from "@/routes/tool-servers/drift";
import { ServerDialog } from "@/routes/tool-servers/form";
import { placeOf, StateTag } from "@/routes/tool-servers/states";
import { Tools } from "@/routes/tool-servers/tools";

export function ToolServerScreen(): ReactNode {
  const { id } = useParams({ strict: false }) as { id: string };
  const { data: server, error, refetch } = useQuery({ ...serverQuery(id), refetchInterval: 10_000 });
  const [search, change] = useSearchText();
  const discover = useDiscover(id);
  if (!server) return <><Heading title="Tool server" />{error ? <Failure error={error} retry={() => void refetch()} /> : <Skeleton rows={8} />}</>;
  return (
    <>
      <Heading title={<span className="inline-flex flex-wrap items-center gap-2.5"><Plain text={server.name} /> <StateTag state={server.state} /></span>}>
        <Button look={server.state === "ready" || server.state === "quarantined" ? "plain" : "primary"} icon={<Radar className={`size-4 ${discover.isPending ? "animate-spin" : ""}`} aria-hidden />} busy={discover.isPending} onClick={() => discover.mutate()}>
          {server.digest ? "Discover again" : "Discover"}
        </Button>
        <Button icon={<Pencil className="size-4" aria-hidden />} onClick={() => change({ edit: "yes" }, { push: true })}>Change</Button>
        <Forget server={server} />
      </Heading>
      <div className="flex flex-col gap-4">
        {error && <Failure error={error} retry={() => void refetch()} />}
        {discover.error ? <Failure error={discover.error} /> : server.error && <LastCheck server={server} />}
        {server.state === "quarantined" && <Drift server={server} />}
        <div className="grid gap-4 lg:grid-cols-[minmax(0,1fr)_22rem] lg:items-start">
          <Tools server={server.name} tools={server.tools ?? []} />
          <About server={server} />
        </div>
      </div>
      {search.edit && <ServerDialog server={server} onClose={() => change({ edit: undefined })} />}
    </>
  );
}

function LastCheck({ server }: { server: ToolServer }) {
  return (
    <div role="status" className="flex items-start gap-3 rounded-md border border-bad/30 bg-bad-soft px-3 py-2.5">
      <CircleAlert className="mt-0.5 size-4 shrink-0 text-bad" aria-hidden />
      <div className="min-w-0">
        <p className="font-medium text-bad">It could not be asked when it was last checked, <Time at={server.checked_at} /></p>
        <p className="break-words whitespace-pre-wrap text-soft"><Plain text={server.error ?? ""} /></p>
      </div>
    </div>
  );
}

function useDiscover(id: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: () => call("POST", `/tool-servers/${id}/discover`),
    // A server that did not answer has changed too: its row says why.
    onSettled: () => client.invalidateQueries({ queryKey: serversQuery.queryKey }),
  });
}

function Forget({ server }: { server: ToolServer }) {
  const [asking, setAsking] = useState(false);
  const client = useQueryClient();
  const navigate = useNavigate();
  const run = async () => {
    await call("DELETE", `/tool-servers/${server.id}`);
    await client.invalidateQueries({ queryKey: serversQuery.queryKey, exact: true });
    await navigate({ to: "/tool-servers" });
  };
  return (
    <>
      <Button look="danger" icon={<Trash2 className="size-4" aria-hidden />} onClick={() => setAsking(true)}>Forget</Button>
      {asking && <Ask title={`Forget ${server.name}?`} text="Its address, its token and what was approved of it are gone. Agents that use it can start no run until they are changed." action="Forget the server" run={run} onClose={() => setAsking(false)} />}
    </>
  );
}

function About({ server }: { server: ToolServer }) {
  return (
    <Panel title="Where it is">
      <Facts>
        <Fact name={server.url ? "URL" : "Command"}><code className="font-mono text-[12.5px] break-all"><Plain text={placeOf(server)} /></code></Fact>
        {server.url && <Fact name="Token">{server.has_token ? "stored, encrypted" : "none"}</Fact>}
        <Fact name="Last check"><Time at={server.checked_at} /></Fact>
        <Fact name="Registered"><Time at={server.created_at} /></Fact>
        {server.digest && <Fact name="Approved"><Digest digest={server.digest} /></Fact>}
        {server.seen_digest && server.seen_digest !== server.digest ? <Fact name="Offered now"><Digest digest={server.seen_digest} /></Fact> : null}
      </Facts>
    </Panel>
  );
}

function Digest({ digest }: { digest: string }) {
  return (
    <span className="flex items-center gap-1">
      <code title={digest} className="font-mono text-[12.5px]">{digest.slice(0, 12)}…</code>
      <span className="-my-1"><CopyButton text={() => digest} label="Copy the digest" /></span>
    </span>
  );
}
