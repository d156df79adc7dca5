/** A run as it goes on: one socket, which writes into the query cache. */
import { useQuery, useQueryClient, type QueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { eventsQuery, runQuery } from "@/api/queries";
import type { Event, Run } from "@/api/types";
import { applyEvents, bounded } from "@/live/apply";
import { follow, type Connection, type Frame } from "@/live/socket";

/** What models are saying at this moment, by step and number of the call. */
export type Speech = Record<string, string>;

const REFRESH_MS = 1_000;
const SPEECH = "llm.delta";

/** Return the run's events and what is being said, kept current; the run itself is in the query `runQuery(id)`. */
export function useLiveRun(id: string): { events: Event[]; speech: Speech; connection: Connection } {
  const client = useQueryClient();
  const [connection, setConnection] = useState<Connection>("connecting");
  const [speech, setSpeech] = useState<Speech>({});
  useEffect(() => {
    const refresh = refresher(client, id);
    const stop = follow({
      path: `/ws/${id}`,
      after: () => client.getQueryData<Event[]>(eventsQuery(id).queryKey)?.at(-1)?.seq ?? 0,
      onConnection: (now) => {
        setConnection(now);
        if (now === "ended") void client.invalidateQueries({ queryKey: runQuery(id).queryKey, exact: true });
      },
      onFrames: (frames) => {
        takeIn(client, id, frames, refresh.soon);
        setSpeech((before) => spoken(before, frames));
      },
    });
    return () => {
      stop();
      refresh.stop();
    };
  }, [client, id]);
  const { data: events } = useQuery(eventsQuery(id));
  return { events: events ?? [], speech, connection };
}

function takeIn(client: QueryClient, id: string, frames: Frame[], refresh: () => void): void {
  const key = eventsQuery(id).queryKey;
  const before = client.getQueryData<Event[]>(key) ?? [];
  const last = before.at(-1)?.seq ?? 0;
  const fresh = frames.filter((frame): frame is Event => frame.seq !== null && frame.seq > last);
  if (!fresh.length) return;
  client.setQueryData<Event[]>(key, bounded([...before, ...fresh]));
  const run = client.getQueryData<Run>(runQuery(id).queryKey);
  if (!run || fresh.at(-1)!.seq <= run.last_seq) return;
  client.setQueryData<Run>(runQuery(id).queryKey, applyEvents(run, fresh));
  // Events say where a step stands; what it returned and what it cost, only the run does.
  refresh();
}

function spoken(before: Speech, frames: Frame[]): Speech {
  let after = before;
  for (const frame of frames) {
    const data = frame.data as { effect?: number; piece?: number; text?: string };
    if (frame.type === SPEECH && data.text) {
      const name = `${frame.step}#${data.effect}`;
      // Who joins late hears the rest: that something went before is shown.
      after = { ...after, [name]: (after[name] ?? (data.piece ? "… " : "")) + data.text };
    }
  }
  return after;
}

/** Ask for the run again, at once and then at most once a second. */
function refresher(client: QueryClient, id: string): { soon: () => void; stop: () => void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let last = 0;
  const go = () => {
    timer = undefined;
    last = Date.now();
    void client.invalidateQueries({ queryKey: ["run", id] });
  };
  return {
    soon: () => {
      timer ??= setTimeout(go, Math.max(150, last + REFRESH_MS - Date.now()));
    },
    stop: () => clearTimeout(timer),
  };
}
