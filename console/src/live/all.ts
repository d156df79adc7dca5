/** What happens to runs anywhere: lists and figures are asked for again soon after something did. */
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { follow, type Connection } from "@/live/socket";

const REFRESH_MS = 1_000;
const ABOUT_RUNS = new Set(["runs", "stats", "healthz", "waits", "dead-letters"]);

/** Keep lists current while mounted; return how the connection is. */
export function useLiveRuns(): Connection {
  const client = useQueryClient();
  const [connection, setConnection] = useState<Connection>("connecting");
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let last = 0;
    const go = () => {
      timer = undefined;
      last = Date.now();
      void client.invalidateQueries({ predicate: ({ queryKey }) => ABOUT_RUNS.has(String(queryKey[0])) });
    };
    const soon = () => {
      timer ??= setTimeout(go, Math.max(100, last + REFRESH_MS - Date.now()));
    };
    const stop = follow({
      path: "/ws",
      after: () => 0,
      onFrames: soon,
      onConnection: (now) => {
        setConnection(now);
        // What happened while nobody listened is in the lists, not in the stream.
        if (now === "live") soon();
      },
    });
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [client]);
  return connection;
}
