import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Plus, TriangleAlert } from "lucide-react";
import { useState } from "react";
import { call, Problem } from "@/api/client";
import { keysQuery } from "@/api/queries";
import type { Key } from "@/api/types";
import { Button } from "@/components/button";
import { Ask } from "@/components/dialog";
import { Failure, Panel, Skeleton } from "@/components/panel";
import { Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { NewKey } from "@/routes/settings/new-key";
import { useSearchText } from "@/routes/agents/search";

/** Whether a key can still be used. */
export function keyState(key: Key, now: number): "works" | "revoked" | "expired" {
  if (key.revoked_at) return "revoked";
  return key.expires_at && Date.parse(key.expires_at) <= now ? "expired" : "works";
}

export function Keys() {
  const { data, error, refetch } = useQuery(keysQuery);
  const [search, change] = useSearchText();
  const [ending, setEnding] = useState<Key | null>(null);
  const client = useQueryClient();
  const keys = data?.items ?? [];
  const refused = error instanceof Problem && (error.status === 401 || error.status === 403);
  const revoke = async (key: Key) => {
    await call("DELETE", `/keys/${encodeURIComponent(key.id)}`);
    await client.invalidateQueries({ queryKey: keysQuery.queryKey });
  };
  return (
    <Panel title="Keys of this server" flush actions={data && <Button icon={<Plus className="size-4" aria-hidden />} onClick={() => change({ new: "key" }, { push: true })}>New key</Button>}>
      {refused && <p className="px-4 py-3 text-soft">Only a key with the scope <code className="font-mono text-ink">admin</code> sees and makes keys.</p>}
      {error && !refused && <div className="p-4"><Failure error={error} retry={() => void refetch()} /></div>}
      {!data && !error && <div className="p-3"><Skeleton rows={2} /></div>}
      {data && !keys.length && <p className="px-4 py-3 text-soft">None yet: the server is open to whoever reaches it. Once the first key is made, it serves nobody without one.</p>}
      <ul className="divide-y">{keys.map((key) => <Row key={key.id} listed={key} onEnd={() => setEnding(key)} />)}</ul>
      {search.new === "key" && <NewKey first={!keys.length} onClose={() => change({ new: undefined })} />}
      {ending && (
        <Ask title={`Revoke ${ending.name}?`} text="Whoever uses it is refused from the next request on. This cannot be taken back; make another key instead." action="Revoke the key" run={() => revoke(ending)} onClose={() => setEnding(null)}>
          {keys.filter((one) => keyState(one, Date.now()) === "works" && one.scopes.includes("admin")).every((one) => one.id === ending.id) && (
            <p className="flex gap-2 text-wait"><TriangleAlert className="mt-0.5 size-4 shrink-0" aria-hidden />It is the last key that may administer: new ones can be made on the server’s command line only.</p>
          )}
        </Ask>
      )}
    </Panel>
  );
}

function Row({ listed, onEnd }: { listed: Key; onEnd: () => void }) {
  const state = keyState(listed, Date.now());
  return (
    <li className={`flex flex-wrap items-center gap-x-4 gap-y-1.5 px-4 py-3 ${state === "works" ? "" : "text-soft"}`}>
      <div className="min-w-0 flex-1 basis-48">
        <h3 className="flex items-center gap-2 font-medium"><span className="truncate"><Plain text={listed.name} /></span>{state !== "works" && <Tag tone={state === "expired" ? "wait" : "idle"}>{state}</Tag>}</h3>
        <p className="text-[12.5px] text-soft">
          <code className="font-mono"><Plain text={listed.id} /></code> · made <Time at={listed.created_at} />
          {listed.expires_at && state === "works" && <> · expires <Time at={listed.expires_at} /></>}
        </p>
      </div>
      <ul aria-label="Scopes" className="flex flex-wrap gap-1">{listed.scopes.map((scope) => <li key={scope} className="rounded border px-1.5 text-xs leading-5 text-soft">{scope}</li>)}</ul>
      {state === "works" && <Button size="small" look="danger" onClick={onEnd}>Revoke<span className="sr-only"> {listed.name}</span></Button>}
    </li>
  );
}
