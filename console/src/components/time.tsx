import { useSyncExternalStore } from "react";
import { duration } from "@/lib/format";

let now = Date.now();
const listeners = new Set<() => void>();
let clock: ReturnType<typeof setInterval> | undefined;

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  // While nobody looked, no clock ran.
  if (clock === undefined) now = Date.now();
  clock ??= setInterval(() => {
    now = Date.now();
    for (const one of listeners) one();
  }, 1000);
  return () => {
    listeners.delete(listener);
    if (!listeners.size) {
      clearInterval(clock);
      clock = undefined;
    }
  };
}

/** The time, to the second; every place that shows an age is drawn anew by the same clock. */
export function useNow(): number {
  return useSyncExternalStore(subscribe, () => now);
}

const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** A time in the reader's zone, in UTC on hover. */
export function Time({ at, as = "ago" }: { at: string | null | undefined; as?: "ago" | "full" | "clock" }) {
  if (!at) return <span className="text-faint">–</span>;
  const date = new Date(at);
  return (
    <time dateTime={at} title={`${date.toISOString()} (UTC)`} className="tabular whitespace-nowrap">
      {as === "ago" ? <Ago ms={date.getTime()} /> : as === "clock" ? clockTime.format(date) : local.format(date)}
    </time>
  );
}

function Ago({ ms }: { ms: number }) {
  const seconds = (useNow() - ms) / 1000;
  if (seconds < 1 && seconds > -1) return <>now</>;
  const rough = Math.abs(seconds) < 60 ? `${Math.round(Math.abs(seconds))} s` : duration(Math.abs(seconds)).split(" ").slice(0, 2).join(" ");
  return <>{seconds < 0 ? `in ${rough}` : `${rough} ago`}</>;
}

/** How long something took, or has taken by now. */
export function Took({ from, to }: { from: string | null | undefined; to: string | null | undefined }) {
  if (!from) return <span className="text-faint">–</span>;
  return <span className="tabular whitespace-nowrap">{to ? duration((Date.parse(to) - Date.parse(from)) / 1000) : <Running from={Date.parse(from)} />}</span>;
}

function Running({ from }: { from: number }) {
  return <>{duration(Math.max(0, (useNow() - from) / 1000))}</>;
}
