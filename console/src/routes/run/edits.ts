/** What a replay is asked for: which steps are made again, what is changed, and whether that is JSON at all. */
import type { Step } from "@/api/types";

export interface EditDraft {
  step: string;
  what: "input" | "output";
  text: string;
}

export interface ReplayDraft {
  /** A step's name makes it and what follows from it again; its number, it and every higher one. */
  from: string;
  by: "name" | "number";
  mode: "live" | "recorded";
  edits: readonly EditDraft[];
}

export interface ReplayBody {
  from_step: string | number;
  mode: "live" | "recorded";
  edits: Record<string, { input?: unknown; output?: unknown }>;
}

/** Steps that a replay can be told of: those that were submitted, not those that steps added or that undo. */
export function replayable(steps: readonly Step[]): Step[] {
  return steps.filter((step) => !step.spawned_by && !step.compensates);
}

/** Return what is wrong with the text of an edit, or null. */
export function jsonFault(text: string): string | null {
  if (!text.trim()) return "Write the new value as JSON; for none, null.";
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return `Not JSON: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Return what is wrong with each edit, by its place. */
export function faults(draft: ReplayDraft): Map<number, string> {
  const found = new Map<number, string>();
  const seen = new Set<string>();
  draft.edits.forEach((edit, index) => {
    const key = `${edit.step}\u0001${edit.what}`;
    const fault = seen.has(key) ? `The ${edit.what} of this step is changed above already.` : jsonFault(edit.text);
    seen.add(key);
    if (fault) found.set(index, fault);
  });
  return found;
}

/** Return the request. The edits have been found to be JSON. */
export function bodyOf(draft: ReplayDraft, steps: readonly Step[]): ReplayBody {
  const edits: ReplayBody["edits"] = {};
  for (const edit of draft.edits) edits[edit.step] = { ...edits[edit.step], [edit.what]: JSON.parse(edit.text) as unknown };
  const number = steps.find((step) => step.name === draft.from)?.no ?? 0;
  return { from_step: draft.by === "name" ? draft.from : number, mode: draft.mode, edits };
}

/** Return the names of the steps that are made again at least: those chosen and what follows from them. */
export function madeAgain(draft: Pick<ReplayDraft, "from" | "by" | "edits">, steps: readonly Step[]): Set<string> {
  const fixed = new Set(draft.edits.filter((edit) => edit.what === "output").map((edit) => edit.step));
  const start = steps.find((step) => step.name === draft.from);
  const again = new Set<string>(draft.by === "name" ? [draft.from] : steps.filter((step) => start && step.no >= start.no).map((step) => step.name));
  for (const step of steps) if (step.status !== "succeeded" && step.status !== "skipped") again.add(step.name);
  for (const edit of draft.edits) if (edit.what === "input") again.add(edit.step);
  // Steps are numbered after what they wait for or not; go round until nothing more follows.
  for (let grown = true; grown; ) {
    grown = false;
    for (const step of steps) {
      if (again.has(step.name)) continue;
      if (step.depends_on.some((parent) => again.has(parent) || fixed.has(parent))) {
        again.add(step.name);
        grown = true;
      }
    }
  }
  for (const name of fixed) again.delete(name);
  return again;
}
