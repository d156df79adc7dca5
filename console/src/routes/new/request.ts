/** What is sent to start a run, and where what the server says of it belongs. */
import type { Problem } from "@/api/client";
import type { Json } from "@/api/types";
import type { Remark } from "@/routes/new/editor";
import type { Located } from "@/routes/new/locate";

export interface BudgetDraft { tokens: string; dollars: string; minutes: string; on_limit: "fail" | "pause" }
export const NO_BUDGET: BudgetDraft = { tokens: "", dollars: "", minutes: "", on_limit: "fail" };

export interface Budget { tokens?: number; microusd?: number; wall_clock_s?: number; on_limit?: string }

/** The limits as the API takes them, undefined when there are none; what is no number is named. */
export function budgetOf(draft: BudgetDraft): { budget: Budget | undefined; errors: Record<string, string> } {
  const errors: Record<string, string> = {};
  const budget: Budget = {};
  const take = (name: "tokens" | "dollars" | "minutes", to: "tokens" | "microusd" | "wall_clock_s", factor: number, least: number) => {
    const text = draft[name].trim();
    if (!text) return;
    const value = Math.round(Number(text) * factor);
    if (!Number.isSafeInteger(value) || value < least) errors[`budget.${to}`] = "This is no such number.";
    else budget[to] = value;
  };
  take("tokens", "tokens", 1, 0);
  take("dollars", "microusd", 1_000_000, 0);
  take("minutes", "wall_clock_s", 60, 1);
  const some = Object.keys(budget).length > 0;
  return { budget: some ? { ...budget, on_limit: draft.on_limit } : undefined, errors };
}

export interface Told {
  /** By the field it is about: "input.amount", "goal", "budget.tokens". */
  fields: Record<string, string>;
  /** About the steps that were written, with the place when it is known. */
  remarks: Remark[];
  /** About nothing that is on the screen. */
  rest: boolean;
}

const FIELD = /^(goal|graph|agent|input|budget|metadata)(\.|$)/;
const CAMEL = /[A-Z]/g;
const snake = (path: string): string => path.replace(CAMEL, (letter) => `_${letter.toLowerCase()}`);

/** Put what the server refuses beside what it is about. */
export function told(problem: Problem, steps: { located: Located; value: unknown } | null): Told {
  const made: Told = { fields: {}, remarks: [], rest: false };
  const said = saidOf(problem);
  for (const { field, step, message } of said) {
    if (step !== undefined || field?.startsWith("steps")) {
      if (steps) made.remarks.push({ text: step === undefined ? `${field}: ${message}` : message, offset: placeOf(steps, field, step) });
      else made.rest = true;
    } else if (field && FIELD.test(field)) made.fields[snake(field)] ??= message;
    else made.rest = true;
  }
  if (!said.length) made.rest = true;
  return made;
}

interface Said { field?: string; step?: string; message: string }

function saidOf(problem: Problem): Said[] {
  const { problems, errors } = problem.body as { problems?: unknown; errors?: unknown };
  if (Array.isArray(problems) && problems.length) return problems.map((one: { step?: string; message?: string }) => ({ step: String(one.step), message: String(one.message) }));
  if (Array.isArray(errors) && errors.length) return errors.map((one: { field?: string; message?: string }) => ({ field: String(one.field), message: String(one.message) }));
  return problem.field ? [{ field: problem.field, message: withoutField(problem.detail, problem.field) }] : [];
}

const withoutField = (text: string, field: string): string => (text.startsWith(`${field}: `) ? text.slice(field.length + 2) : text);

/** The place of a step by its name, or of a path "steps.0.input" as near as the text goes. */
function placeOf({ located, value }: { located: Located; value: unknown }, field: string | undefined, step: string | undefined): number | null {
  if (step !== undefined) {
    const index = Array.isArray(value) ? value.findIndex((one: { name?: unknown }) => one?.name === step) : -1;
    return index < 0 ? null : (located.at.get(`${index}.name`) ?? located.at.get(String(index)) ?? null);
  }
  const parts = (field ?? "").split(".").slice(1);
  for (; parts.length; parts.pop()) {
    const found = located.at.get(parts.join("."));
    if (found !== undefined) return found;
  }
  return null;
}

/**
 * The idempotency keys of one form: the same request has the same key however often it is sent, so that a double click
 * or an answer that got lost starts one run; another request has another.
 */
export class Keys {
  private last: { body: string; key: string } | null = null;

  constructor(private readonly make: () => string = randomKey) {}

  of(body: string): string {
    if (this.last?.body !== body) this.last = { body, key: this.make() };
    return this.last.key;
  }
}

/** Not crypto.randomUUID: a console served over plain HTTP to another machine has none. */
export function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The values a text stands for: JSON when it is some, else the text itself; nothing is null. */
export function looseJson(text: string): Json {
  if (!text.trim()) return null;
  try {
    return JSON.parse(text) as Json;
  } catch {
    return text;
  }
}
