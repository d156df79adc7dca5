/** A window of time on a line: what is seen of the whole, where a moment lies in it, which marks the axis has. */

export type Range = readonly [number, number];

/** Less than this cannot be told apart on any screen. */
const LEAST_MS = 5;

const STEPS_MS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000,
  1_800_000, 3_600_000, 7_200_000, 14_400_000, 21_600_000, 43_200_000, 86_400_000, 172_800_000, 604_800_000, 2_592_000_000,
];

/** Keep a window within the whole, and wide enough to show something. */
export function clamp([from, to]: Range, whole: Range): Range {
  const total = whole[1] - whole[0];
  const width = Math.min(total, Math.max(LEAST_MS, to - from));
  const start = Math.min(Math.max(from, whole[0]), whole[1] - width);
  return [start, start + width];
}

/** Zoom about a moment: a factor above 1 shows less and more of it. */
export function zoom(seen: Range, about: number, factor: number, whole: Range): Range {
  return clamp([about - (about - seen[0]) / factor, about + (seen[1] - about) / factor], whole);
}

export function pan(seen: Range, by: number, whole: Range): Range {
  return clamp([seen[0] + by, seen[1] + by], whole);
}

/** Return the moments of the axis' marks relative to the start of the whole, about `many` of them. */
export function ticks(seen: Range, start: number, many: number): number[] {
  const width = seen[1] - seen[0];
  const step = STEPS_MS.find((one) => width / one <= many) ?? STEPS_MS.at(-1)!;
  const first = Math.ceil((seen[0] - start) / step) * step;
  const found: number[] = [];
  for (let at = first; at <= seen[1] - start; at += step) found.push(at);
  return found;
}

/** Write the time since the start as a mark of the axis: 0, 250 ms, 1.5 s, 2:05, 1:02:05. */
export function mark(ms: number): string {
  if (ms === 0) return "0";
  if (ms < 1000) return `${ms} ms`;
  if (ms < 60_000) return `${Number((ms / 1000).toFixed(3))} s`;
  const whole = Math.floor(ms / 1000);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const pad = (value: number) => String(value).padStart(2, "0");
  if (h >= 48) return `${Math.floor(h / 24)} d${h % 24 ? ` ${h % 24} h` : ""}`;
  // Where seconds are told apart below one, the marks say so.
  const rest = ms % 1000 ? String((ms % 1000) / 1000).slice(1) : "";
  return h ? `${h}:${pad(m)}:${pad(s)}${rest}` : `${m}:${pad(s)}${rest}`;
}

/** Return a span's place in percent of the window, or null when nothing of it is seen. */
export function place(start: number, end: number, seen: Range): { left: number; width: number } | null {
  if (end < seen[0] || start > seen[1]) return null;
  const total = seen[1] - seen[0];
  const left = (Math.max(start, seen[0]) - seen[0]) / total;
  const right = (Math.min(end, seen[1]) - seen[0]) / total;
  return { left: left * 100, width: (right - left) * 100 };
}
