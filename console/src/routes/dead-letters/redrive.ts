/** Which dead letters get another chance, and what that is called. */
import type { DeadLetter } from "@/api/types";

export interface Search { reason?: string; tool?: string }

/** A dead letter's name within the tenant. */
export const letterId = (one: Pick<DeadLetter, "run_id" | "no">): string => `${one.run_id}/${one.no}`;

export const reasonText = (reason: string): string => reason.replaceAll("_", " ");

const MEANING: Readonly<Record<string, string>> = {
  attempts_exhausted: "It failed as often as it may.",
  poisoned: "Its workers died again and again.",
  final: "It failed in a way that trying again does not mend.",
  fatal: "It failed in a way that trying again does not mend.",
  timeout: "It took longer than it may.",
  deadline: "It was not done by its deadline.",
  rejected: "A person rejected it.",
  expired: "Nobody answered in time.",
  unknown_effect: "Nobody knows whether its call happened.",
  diverged: "Its code does not do any more what is recorded.",
  budget: "What the run may spend is spent.",
  max_steps: "An agent called its model as often as it may.",
};

export const meaning = (reason: string): string | undefined => MEANING[reason];

/** The request for all that match; the API wants `all` said when there is no filter. */
export function redriveAll(search: Search, extra: number | null): Record<string, unknown> {
  const filter = { ...(search.reason ? { reason: search.reason } : {}), ...(search.tool ? { tool: search.tool } : {}) };
  return { ...filter, ...(Object.keys(filter).length ? {} : { all: true }), ...(extra ? { extra_attempts: extra } : {}) };
}

/** How many attempts more, as it was typed: null is as many as the step had; undefined is no number. */
export function extraAttempts(text: string): number | null | undefined {
  if (!text.trim()) return null;
  const value = Number(text);
  return Number.isInteger(value) && value >= 1 && value <= 1000 ? value : undefined;
}
