/** The meters of budgets, as people read and type them: money in dollars, time in seconds, everything else as it is counted. */
import { count, duration, money } from "@/lib/format";

export const METERS = [
  { meter: "tokens", label: "tokens" },
  { meter: "tools", label: "tool calls" },
  { meter: "microusd", label: "US dollars" },
  { meter: "tool:", label: "calls of one tool" },
] as const;

export const WINDOWS: readonly { seconds: number; label: string }[] = [
  { seconds: 0, label: "in all" },
  { seconds: 3_600, label: "in any hour" },
  { seconds: 86_400, label: "in any day" },
  { seconds: 604_800, label: "in any 7 days" },
  { seconds: 2_592_000, label: "in any 30 days" },
];

export function meterName(meter: string): string {
  if (meter === "tools") return "tool calls";
  if (meter === "microusd") return "spend";
  if (meter === "wall_clock_s") return "time";
  return meter.startsWith("tool:") ? `calls of ${meter.slice(5)}` : meter;
}

export function meterValue(meter: string, value: number): string {
  if (meter === "microusd") return money(value);
  if (meter === "wall_clock_s") return duration(value);
  return count(value);
}

export function windowText(seconds: number): string {
  return WINDOWS.find((one) => one.seconds === seconds)?.label ?? `in any ${duration(seconds)}`;
}

/** What is typed for a meter, as the API counts it: dollars become micro-dollars. NaN for what is no number. */
export function toMeter(meter: string, typed: string): number {
  if (!typed.trim()) return NaN;
  return meter === "microusd" ? Math.round(Number(typed) * 1_000_000) : Number(typed);
}

export function fromMeter(meter: string, value: number): string {
  return String(meter === "microusd" ? value / 1_000_000 : value);
}
