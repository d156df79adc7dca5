/** What became of an approved list of tools: which are new, gone or changed, and what of each. */
import type { ServerTool } from "@/api/types";

export interface ToolChange {
  name: string;
  kind: "added" | "removed" | "changed";
  before: ServerTool | null;
  after: ServerTool | null;
}

export interface Line {
  /** `gap`: so many lines that are the same are left out; `left` says how many. */
  kind: "same" | "changed" | "gap";
  /** Null: there is no such line on this side. */
  left: string | null;
  right: string | null;
}

const AROUND = 2;
// Beyond it a line-by-line comparison would stop the page; all of both is shown then.
const MOST_CELLS = 4_000_000;

/** Return the changes by name: what is new comes first, for it was never looked at. */
export function changesOf(approved: readonly ServerTool[], seen: readonly ServerTool[]): ToolChange[] {
  const before = new Map(approved.map((tool) => [tool.name, tool]));
  const after = new Map(seen.map((tool) => [tool.name, tool]));
  const order = { added: 0, changed: 1, removed: 2 };
  return [...new Set([...before.keys(), ...after.keys()])]
    .map((name): ToolChange => {
      const [old, now] = [before.get(name) ?? null, after.get(name) ?? null];
      return { name, kind: !old ? "added" : !now ? "removed" : "changed", before: old, after: now };
    })
    .filter(({ kind, before: old, after: now }) => kind !== "changed" || ordered(shown(old!)) !== ordered(shown(now!)))
    .sort((a, b) => order[a.kind] - order[b.kind] || a.name.localeCompare(b.name));
}

/** What of a tool a person approves: everything but the digest that is made of it. */
export function shown(tool: ServerTool): Record<string, unknown> {
  const { digest: _, ...rest } = tool;
  return rest;
}

/** JSON over lines, with the names in order: what only moved has not changed. */
export function ordered(value: unknown): string {
  return JSON.stringify(
    value,
    (_, one: unknown) => (one !== null && typeof one === "object" && !Array.isArray(one) ? Object.fromEntries(Object.entries(one).sort(([a], [b]) => (a < b ? -1 : 1))) : one),
    2,
  );
}

/** Return two texts line by line, beside each other. */
export function sideBySide(left: string, right: string): Line[] {
  const [a, b] = [left.split("\n"), right.split("\n")];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const same = (lines: string[]): Line[] => lines.map((line) => ({ kind: "same", left: line, right: line }));
  return [
    ...same(a.slice(0, start)),
    ...between(a.slice(start, a.length - end), b.slice(start, b.length - end)),
    ...same(a.slice(a.length - end)),
  ];
}

/** Leave out what is the same, but for a few lines around each change. */
export function changedParts(lines: readonly Line[]): Line[] {
  const near = lines.map((_, index) => lines.slice(Math.max(0, index - AROUND), index + AROUND + 1).some((line) => line.kind === "changed"));
  const found: Line[] = [];
  for (let index = 0; index < lines.length; ) {
    let end = index;
    while (end < lines.length && !near[end]) end += 1;
    // A gap of one line would take as much room as the line.
    if (end - index > 1) found.push({ kind: "gap", left: String(end - index), right: null });
    else if (end > index) found.push(lines[index]!);
    if (end < lines.length) found.push(lines[end]!);
    index = end + 1;
  }
  return found;
}

function between(a: string[], b: string[]): Line[] {
  const kept = a.length * b.length > MOST_CELLS ? [] : common(a, b);
  const found: Line[] = [];
  let [i, j] = [0, 0];
  for (const [x, y] of [...kept, [a.length, b.length] as const]) {
    for (; i < x || j < y; i += 1, j += 1) {
      found.push({ kind: "changed", left: i < x ? a[i]! : null, right: j < y ? b[j]! : null });
    }
    if (x < a.length) found.push({ kind: "same", left: a[x]!, right: b[y]! });
    [i, j] = [x + 1, y + 1];
  }
  return found;
}

/** The longest common subsequence, as pairs of places. */
function common(a: string[], b: string[]): (readonly [number, number])[] {
  const width = b.length + 1;
  const lengths = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] = a[i] === b[j] ? lengths[(i + 1) * width + j + 1]! + 1 : Math.max(lengths[(i + 1) * width + j]!, lengths[i * width + j + 1]!);
    }
  }
  const pairs: (readonly [number, number])[] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) pairs.push([i++, j++]);
    else if (lengths[(i + 1) * width + j]! >= lengths[i * width + j + 1]!) i += 1;
    else j += 1;
  }
  return pairs;
}
