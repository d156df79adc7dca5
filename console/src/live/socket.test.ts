import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { storeKey } from "@/api/client";
import { follow, type Connection, type Frame } from "@/live/socket";

/** The browser's socket, in the hands of the test. */
class Socket {
  static made: Socket[] = [];
  static readonly OPEN = 1;
  static readonly CONNECTING = 0;
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: string }) => void) | null = null;
  onclose: ((closed: { code: number }) => void) | null = null;
  constructor(readonly url: string) {
    Socket.made.push(this);
  }
  close() {
    this.readyState = 3;
  }
  say(seq: number) {
    this.onmessage?.({ data: JSON.stringify({ seq, type: "step.ready", run_id: "r", step: "a", at: "", data: {} }) });
  }
}

let frames: Frame[];
let connections: Connection[];
let stop: () => void;

const begin = async () => {
  stop = follow({
    path: "/ws/r",
    after: () => frames.at(-1)?.seq ?? 0,
    onFrames: (more) => frames.push(...more),
    onConnection: (now) => connections.push(now),
  });
  await vi.advanceTimersByTimeAsync(0);
};
const last = () => Socket.made.at(-1)!;

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("WebSocket", Socket);
  vi.spyOn(Math, "random").mockReturnValue(1);
  Socket.made = [];
  frames = [];
  connections = [];
  storeKey("");
});

afterEach(() => {
  stop();
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

it("asks again after what it has when the connection is cut", async () => {
  await begin();
  last().onopen?.();
  last().say(1);
  last().say(2);
  last().onclose?.({ code: 1006 });
  expect(frames.map((one) => one.seq)).toEqual([1, 2]);
  expect(connections).toEqual(["connecting", "live", "reconnecting"]);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(Socket.made).toHaveLength(2);
  expect(new URL(last().url).searchParams.get("after")).toBe("2");
});

it("waits longer after each failure, ten seconds at most", async () => {
  await begin();
  const waits: number[] = [];
  for (let turn = 0; turn < 8; turn += 1) {
    const before = Date.now();
    last().onclose?.({ code: 1006 });
    const number = Socket.made.length;
    while (Socket.made.length === number) await vi.advanceTimersByTimeAsync(50);
    waits.push(Date.now() - before);
  }
  expect(waits.slice(0, 4)).toEqual([250, 500, 1000, 2000]);
  expect(Math.max(...waits)).toBe(10_000);
});

it("ends when the run has ended, and when the key is refused", async () => {
  for (const [code, word] of [[1000, "ended"], [4401, "refused"], [4404, "refused"]] as const) {
    await begin();
    last().onclose?.({ code });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(connections.at(-1)).toBe(word);
    stop();
  }
  expect(Socket.made).toHaveLength(3);
});

it("takes a ticket for its key, and another when that one came too late", async () => {
  storeKey("secret");
  const asked: string[] = [];
  vi.stubGlobal("fetch", (url: string) => {
    asked.push(url);
    return Promise.resolve(new Response(JSON.stringify({ ticket: `t${asked.length}` }), { status: 201 }));
  });
  await begin();
  expect(new URL(last().url).searchParams.get("ticket")).toBe("t1");
  expect(last().url).not.toContain("secret");
  last().onclose?.({ code: 4401 });
  await vi.advanceTimersByTimeAsync(10_000);
  expect(new URL(last().url).searchParams.get("ticket")).toBe("t2");
  last().onclose?.({ code: 4401 });
  expect(connections.at(-1)).toBe("refused");
});
