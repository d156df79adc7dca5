/** A socket that does not lose its place: it reconnects after what it has, and says how it is. */
import { call, Problem, storedKey } from "@/api/client";
import type { Event } from "@/api/types";
import { socketUrl } from "@/lib/base";

export type Connection = "connecting" | "live" | "reconnecting" | "ended" | "refused";

export interface Frame extends Omit<Event, "seq"> {
  /** Null for what is only said and not recorded: pieces of a model's answer. */
  seq: number | null;
}

export interface Follower {
  path: string;
  /** The last number that was taken in; asked for anew at each connection. */
  after: () => number;
  onFrames: (frames: Frame[]) => void;
  onConnection: (connection: Connection) => void;
}

const FIRST_MS = 250;
const CAP_MS = 10_000;
const DONE = 1000;
const REFUSED = new Set([4401, 4403, 4404]);

/** Follow until told to stop. What comes within one frame of the screen is handed over together. */
export function follow(follower: Follower): () => void {
  let socket: WebSocket | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let failures = 0;
  let stopped = false;
  let waiting: Frame[] = [];
  let scheduled = false;

  const flush = () => {
    scheduled = false;
    const frames = waiting;
    waiting = [];
    if (frames.length && !stopped) follower.onFrames(frames);
  };

  const schedule = () => {
    if (scheduled) return;
    scheduled = true;
    // A tab in the background paints nothing, and must take in what comes all the same.
    if (document.visibilityState === "visible") requestAnimationFrame(flush);
    else setTimeout(flush, 250);
  };

  const again = () => {
    if (stopped) return;
    flush();
    follower.onConnection("reconnecting");
    const wait = Math.random() * Math.min(CAP_MS, FIRST_MS * 2 ** Math.min(failures, 10));
    failures += 1;
    timer = setTimeout(() => void open(), wait);
  };

  const open = async () => {
    let ticket: string | null = null;
    try {
      ticket = await ticketFor();
    } catch (error) {
      if (error instanceof Problem && (error.status === 401 || error.status === 403)) follower.onConnection("refused");
      else again();
      return;
    }
    if (stopped) return;
    const query = new URLSearchParams({ after: String(follower.after()) });
    if (ticket) query.set("ticket", ticket);
    socket = new WebSocket(`${socketUrl(follower.path)}?${query}`);
    socket.onopen = () => {
      failures = 0;
      follower.onConnection("live");
    };
    socket.onmessage = (message) => {
      waiting.push(JSON.parse(message.data as string) as Frame);
      schedule();
    };
    socket.onclose = (closed) => {
      if (stopped) return;
      // A ticket lives for seconds: one that a sleeping machine held for too long is no refusal of the key.
      const late = closed.code === 4401 && ticket !== null && failures === 0;
      if (closed.code === DONE || (REFUSED.has(closed.code) && !late)) {
        flush();
        follower.onConnection(closed.code === DONE ? "ended" : "refused");
      } else again();
    };
  };

  follower.onConnection("connecting");
  void open();
  const online = () => {
    if (socket?.readyState === WebSocket.OPEN || socket?.readyState === WebSocket.CONNECTING) return;
    clearTimeout(timer);
    failures = 0;
    if (!stopped) void open();
  };
  window.addEventListener("online", online);
  return () => {
    stopped = true;
    clearTimeout(timer);
    window.removeEventListener("online", online);
    socket?.close();
  };
}

/** A browser cannot send a header with a socket, and a key in an address would be logged: a ticket is good once. */
async function ticketFor(): Promise<string | null> {
  if (!storedKey()) return null;
  return (await call<{ ticket: string }>("POST", "/ws-tickets")).ticket;
}
