import { Problem } from "@/api/client";

export interface Outcome { id: string; error: string | null }
const AT_ONCE = 6;

/** Do one thing to each, a few at a time; what one refuses does not keep the others from being done. */
export async function forEach(ids: readonly string[], act: (id: string) => Promise<unknown>): Promise<Outcome[]> {
  const made: Outcome[] = [];
  const left = ids.map((id, index) => ({ id, index }));
  const work = async () => {
    for (let one = left.shift(); one; one = left.shift()) {
      made[one.index] = { id: one.id, error: await act(one.id).then(() => null, said) };
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, ids.length) }, work));
  return made;
}

function said(error: unknown): string {
  return error instanceof Problem ? error.detail || error.title : String(error);
}

export interface Summary { done: number; refused: { why: string; ids: string[] }[] }

/** How many were done, and what was said of the others, the most frequent first. Ids within a reason are written alike. */
export function summary(outcomes: readonly Outcome[]): Summary {
  const why = new Map<string, string[]>();
  for (const { id, error } of outcomes) {
    if (error === null) continue;
    const text = error.replaceAll(id, "…");
    why.set(text, [...(why.get(text) ?? []), id]);
  }
  const refused = [...why].map(([text, ids]) => ({ why: text, ids })).sort((a, b) => b.ids.length - a.ids.length);
  return { done: outcomes.filter((one) => one.error === null).length, refused };
}
