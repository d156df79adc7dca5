/** Models and gates as the screens show and edit them. */
import type { Gate, Model } from "@/api/types";
import type { Tone } from "@/components/status";

export const RATES = [
  { name: "input_usd", label: "Input" },
  { name: "output_usd", label: "Output" },
  { name: "cache_read_usd", label: "Cache read" },
  { name: "cache_write_usd", label: "Cache write" },
] as const;
export type Rate = (typeof RATES)[number]["name"];
/** A model to set something of: a row, or only its name. */
export type ModelGiven = Pick<Model, "provider" | "name"> & Partial<Model>;

export interface ModelDraft {
  provider: string;
  name: string;
  rates: Record<Rate, string>;
  window: string;
}

export function modelDraft(model?: ModelGiven): ModelDraft {
  return {
    provider: model?.provider ?? "", name: model?.name ?? "", window: String(model?.window_tokens ?? ""),
    rates: Object.fromEntries(RATES.map(({ name }) => [name, String(model?.price?.[name] ?? "")])) as ModelDraft["rates"],
  };
}

/** What is sent of a model. Prices stay the decimal texts they were typed as: no binary fraction rounds them. */
export function modelBody(draft: ModelDraft): Record<string, unknown> {
  const rates = Object.fromEntries(RATES.filter(({ name }) => draft.rates[name].trim()).map(({ name }) => [name, draft.rates[name].trim()]));
  return { price: Object.keys(rates).length ? rates : null, window_tokens: draft.window.trim() ? Number(draft.window) : null };
}

/** The address of a model; a name may have slashes, which are part of the path. */
export function modelPath(provider: string, name: string): string {
  return `/models/${encodeURIComponent(provider)}/${name.split("/").map(encodeURIComponent).join("/")}`;
}

/** Dollars for a million tokens, with the digits it has and at least cents. */
export function rate(value: string | undefined): string | null {
  if (value === undefined || value === "") return null;
  if (!/^\d+(\.\d+)?$/.test(value)) return `$${value}`;
  const [whole, part = ""] = value.split(".");
  return `$${whole}.${part.replace(/0+$/, "").padEnd(2, "0")}`;
}

/** The models that agents name and nobody set anything of. */
export function unset(names: readonly string[], models: readonly ModelGiven[]): string[] {
  const set = new Set(models.flatMap((one) => [`${one.provider}:${one.name}`, one.name]));
  return [...new Set(names)].filter((name) => name.includes(":") && !set.has(name)).sort();
}

/** How a gate stands: whether calls pass, and if not, since when and until when. */
export function gateState(gate: Gate, now: number): { label: string; tone: Tone; until: string | null } {
  if (gate.state === "open") return { label: "shut", tone: "bad", until: gate.retry_at };
  if (gate.state === "half_open") return { label: "trying one call", tone: "wait", until: null };
  if (gate.held_until && Date.parse(gate.held_until) > now) return { label: "held", tone: "wait", until: gate.held_until };
  return { label: "passing", tone: "good", until: null };
}

export function gatesInOrder(gates: readonly Gate[], now: number): Gate[] {
  const rank = (gate: Gate) => ({ bad: 0, wait: 1 })[gateState(gate, now).tone as "bad" | "wait"] ?? 2;
  return [...gates].sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
}
