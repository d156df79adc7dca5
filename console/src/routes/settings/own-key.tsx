import { useQuery, useQueryClient } from "@tanstack/react-query";
import { CircleCheck } from "lucide-react";
import { useState, type FormEvent } from "react";
import { get, Problem, storedKey, storeKey } from "@/api/client";
import { Button } from "@/components/button";
import { Input } from "@/components/field";
import { Failure, Panel } from "@/components/panel";

export const testQuery = { queryKey: ["settings", "test"], queryFn: ({ signal }: { signal: AbortSignal }) => get<unknown>("/runs?limit=1", signal), retry: false, staleTime: 0 } as const;

/** What came of asking with what is stored. */
export function verdict(hasKey: boolean, error: unknown): { ok: boolean; text: string } {
  if (!error) return { ok: true, text: hasKey ? "The server accepts this key." : "The server asks for no key: it is open to whoever reaches it." };
  if (error instanceof Problem && error.status === 401) {
    return { ok: false, text: hasKey ? "The server does not know this key: it was revoked, has expired, or was copied in part." : "The server asks for a key. Enter one." };
  }
  if (error instanceof Problem && error.status === 403) return { ok: false, text: "The server knows this key, but it may not read. Enter one with the scope read." };
  return { ok: false, text: "" };
}

/** Use another key from now on: all that was asked is asked again with it, and what was refused connects again. */
export async function takeKey(client: ReturnType<typeof useQueryClient>, key: string): Promise<void> {
  storeKey(key);
  window.dispatchEvent(new Event("online"));
  await client.resetQueries();
}

export function KeyOfThisBrowser() {
  const client = useQueryClient();
  const [typed, setTyped] = useState("");
  const { error, isFetching, isSuccess, refetch } = useQuery(testQuery);
  const has = storedKey() !== "";
  const save = (event: FormEvent) => {
    event.preventDefault();
    const key = typed.trim();
    if (!key) return void refetch();
    setTyped("");
    void takeKey(client, key);
  };
  return (
    <Panel title="API key">
      <form onSubmit={save} className="flex flex-col gap-3" autoComplete="off">
        <p className="text-soft">Kept in this browser, and sent to this server only. Whoever uses this browser can use it.</p>
        <div className="flex flex-wrap items-end gap-2">
          <div className="min-w-0 flex-1 basis-64">
            <Input label="Key" type="password" autoComplete="off" spellCheck={false} value={typed} placeholder={has ? "stored; type to replace it" : "none stored"} className="font-mono" onChange={(event) => setTyped(event.target.value)} />
          </div>
          <Button type="submit" look={typed.trim() ? "primary" : "plain"} busy={isFetching}>{typed.trim() ? "Save and test" : "Test"}</Button>
          {has && <Button look="danger" onClick={() => void takeKey(client, "")}>Forget</Button>}
        </div>
        <div role="status" className="min-h-6">{!isFetching && (error || isSuccess) && <Result has={has} error={error} />}</div>
      </form>
    </Panel>
  );
}

function Result({ has, error }: { has: boolean; error: unknown }) {
  const { ok, text } = verdict(has, error);
  if (ok) return <p className="flex items-center gap-1.5 text-good"><CircleCheck className="size-4 shrink-0" aria-hidden />{text}</p>;
  return text ? <p className="text-bad">{text}</p> : <Failure error={error} />;
}
