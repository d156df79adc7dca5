import type { Tone } from "@/components/status";

const FILL: Record<Tone | "accent", string> = {
  accent: "bg-accent", good: "bg-good", busy: "bg-busy", wait: "bg-wait", bad: "bg-bad", idle: "bg-idle",
};
const NEAR = 0.8;

/** How full something is, as a part of 1: never more, never less. */
export function share(value: number, cap: number): number {
  if (cap <= 0) return value > 0 ? 1 : 0;
  return Math.min(1, Math.max(0, value / cap));
}

/** What a limit that is so full should look like: calm, near its end, at its end. */
export function fullness(value: number, cap: number): Tone | "accent" {
  const full = share(value, cap);
  return full >= 1 ? "bad" : full >= NEAR ? "wait" : "accent";
}

interface Props {
  /** What is measured, and how it is read out. */
  label: string;
  text: string;
  value: number;
  cap: number;
  /** Held for what is under way: drawn after the value, lighter. */
  reserved?: number;
  tone?: Tone | "accent";
}

/** A thin bar: how much of a limit is used. The figures stand beside it. */
export function Bar({ label, text, value, cap, reserved = 0, tone }: Props) {
  const used = share(value, cap);
  const held = share(value + reserved, cap) - used;
  const fill = FILL[tone ?? fullness(value + reserved, cap)];
  return (
    <div role="meter" aria-label={label} aria-valuemin={0} aria-valuemax={cap} aria-valuenow={Math.min(value, cap)} aria-valuetext={text} className="flex h-1.5 w-full overflow-hidden rounded-full bg-idle-soft">
      <div className={`h-full ${fill}`} style={{ width: `${used * 100}%` }} />
      {held > 0 && <div className={`h-full opacity-40 ${fill}`} style={{ width: `${held * 100}%` }} />}
    </div>
  );
}
