/** What a wait asks, in the words that are there. */
import type { Wait } from "@/api/types";

/** The question in a line: its prompt, else what it is about. */
export function asked(wait: Pick<Wait, "kind" | "name" | "request" | "step">): string {
  const { prompt, message, tool } = wait.request as { prompt?: unknown; message?: unknown; tool?: unknown };
  if (typeof prompt === "string" && prompt.trim()) return prompt;
  const about = typeof tool === "string" && tool ? tool : wait.name || wait.step;
  if (wait.kind === "unknown_effect") return typeof message === "string" && message ? message : `Did the call of ${about} happen?`;
  return wait.kind === "approval" ? `May ${about} be called?` : `A question of ${about}`;
}

/** JSON with names in order, two spaces deep: the same value is always the same text. */
export function canonical(value: unknown): string {
  return JSON.stringify(sorted(value), null, 2) ?? "null";
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  const made: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  // Code points, as the server sorts; a locale would put names in another order for another reader.
  for (const name of Object.keys(value).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))) made[name] = sorted((value as Record<string, unknown>)[name]);
  return made;
}

export interface Winner { decision: string; by: string | null; reason: string | null }

/** Who was faster, as a refused answer says. */
export function winnerOf(body: Record<string, unknown>): Winner | null {
  const winner = body.winner as Partial<Winner> | undefined;
  if (!winner || typeof winner.decision !== "string") return null;
  return { decision: winner.decision, by: typeof winner.by === "string" ? winner.by : null, reason: typeof winner.reason === "string" ? winner.reason : null };
}

const WORDS: Record<string, string> = {
  approved: "approved", rejected: "rejected", responded: "answered", happened: "settled as happened", resend: "settled to be sent again",
  failed: "settled as failed", expired: "expired", cancelled: "cancelled", answered: "answered",
};

export function decisionWord(decision: string): string {
  return WORDS[decision] ?? decision.replaceAll("_", " ");
}

const CHOICE_LIMIT = 12;

/** The few answers a question takes, when its schema is a list of them. */
export function choicesOf(schema: unknown): (string | number | boolean)[] | null {
  if (schema === null || typeof schema !== "object") return null;
  const { enum: values, type } = schema as { enum?: unknown; type?: unknown };
  if (type === "boolean") return [true, false];
  if (!Array.isArray(values) || !values.length || values.length > CHOICE_LIMIT) return null;
  return values.every((one) => ["string", "number", "boolean"].includes(typeof one)) ? (values as (string | number | boolean)[]) : null;
}
