/** A form out of a JSON schema: the part of it that people fill in; whatever else a schema says is written as JSON. */
import type { Json } from "@/api/types";

export type Kind = "string" | "number" | "integer" | "boolean" | "enum" | "array" | "object" | "json";
type Simple = "string" | "number" | "integer";

export interface Field {
  kind: Kind;
  /** Where it lies, as the server names it: input.customer.name. */
  path: string;
  label: string;
  hint: string;
  required: boolean;
  initial: Json | undefined;
  choices?: Json[];
  items?: Simple;
  fields?: (Field & { name: string })[];
  long?: boolean;
}

/** What stands in the form: text for what is typed, a choice, a list of texts, or the fields of an object. */
export type Draft = string | boolean | string[] | { [name: string]: Draft };

type Schema = Record<string, unknown>;
const MAX_DEPTH = 4;
const HARD = ["$ref", "oneOf", "anyOf", "allOf", "not", "if", "patternProperties", "prefixItems", "dependentSchemas"];

const isSchema = (value: unknown): value is Schema => value !== null && typeof value === "object" && !Array.isArray(value);
const word = (schema: Schema, name: string): string => (typeof schema[name] === "string" ? (schema[name] as string) : "");

/** The field of a schema. `label` is what it is called when the schema has no title. */
export function fieldOf(given: unknown, path: string, label: string, required = true, depth = 0): Field {
  const schema = isSchema(given) ? given : {};
  const base = { path, label: word(schema, "title") || label, hint: word(schema, "description"), required, initial: schema.default as Json | undefined };
  const json: Field = { ...base, kind: "json" };
  if (HARD.some((name) => name in schema) || depth > MAX_DEPTH) return json;
  if (Array.isArray(schema.enum) && schema.enum.length) return { ...base, kind: "enum", choices: schema.enum as Json[] };
  switch (schema.type) {
    case "string":
      return { ...base, kind: "string", long: Number(schema.maxLength ?? 0) > 200 || schema.format === "textarea" };
    case "number":
    case "integer":
    case "boolean":
      return { ...base, kind: schema.type };
    case "array": {
      const items = isSchema(schema.items) ? schema.items : {};
      const simple = items.type === "string" || items.type === "number" || items.type === "integer";
      return simple && !("enum" in items) && !HARD.some((name) => name in items) ? { ...base, kind: "array", items: items.type as Simple } : json;
    }
    case "object":
      return objectOf(schema, base, json, depth);
    default:
      return json;
  }
}

function objectOf(schema: Schema, base: Omit<Field, "kind">, json: Field, depth: number): Field {
  // What may have names that nobody foresaw cannot be filled in field by field.
  if (!isSchema(schema.properties) || isSchema(schema.additionalProperties)) return json;
  const needed = new Set(Array.isArray(schema.required) ? schema.required : []);
  const fields = Object.entries(schema.properties).map(([name, one]) => ({
    ...fieldOf(one, `${base.path}.${name}`, name, needed.has(name), depth + 1), name,
  }));
  return fields.length ? { ...base, kind: "object", fields } : json;
}

/** What stands in the form at first. */
export function draftOf(field: Field, value: Json | undefined = field.initial): Draft {
  switch (field.kind) {
    case "object": {
      const given = isSchema(value) ? (value as Record<string, Json>) : {};
      return Object.fromEntries(field.fields!.map((one) => [one.name, draftOf(one, given[one.name] ?? one.initial)]));
    }
    case "array":
      return Array.isArray(value) ? value.map(String) : [];
    case "boolean":
      return value === undefined || value === null ? (field.required ? false : "") : Boolean(value);
    case "enum":
      return value === undefined ? "" : JSON.stringify(value);
    case "json":
      return value === undefined ? "" : JSON.stringify(value, null, 2);
    default:
      return value === undefined || value === null ? "" : String(value);
  }
}

export interface Filled {
  /** Undefined: nothing was filled in, and nothing has to be. */
  value: Json | undefined;
  errors: Record<string, string>;
}

/** The value that a form stands for, with what is wrong, by path. */
export function valueOf(field: Field, draft: Draft): Filled {
  const fine = (value: Json | undefined): Filled => ({ value, errors: {} });
  const wrong = (message: string): Filled => ({ value: undefined, errors: { [field.path]: message } });
  switch (field.kind) {
    case "object":
      return objectValue(field, draft as { [name: string]: Draft });
    case "array":
      return arrayValue(field, draft as string[]);
    case "boolean":
      return fine(draft === "" ? undefined : draft === true || draft === "true");
    case "string":
      return draft === "" && !field.required ? fine(undefined) : fine(draft as string);
  }
  const text = String(draft).trim();
  if (text === "") return field.required ? wrong(field.kind === "enum" ? "Choose one." : "This is needed.") : fine(undefined);
  if (field.kind === "number" || field.kind === "integer") {
    const made = numberOf(text, field.kind);
    return made === null ? wrong(field.kind === "integer" ? "This is no whole number." : "This is no number.") : fine(made);
  }
  try {
    return fine(JSON.parse(text) as Json);
  } catch {
    return wrong("This is no JSON.");
  }
}

function numberOf(text: string, kind: "number" | "integer"): number | null {
  const made = Number(text);
  if (!Number.isFinite(made) || (kind === "integer" && !Number.isSafeInteger(made))) return null;
  return made;
}

function arrayValue(field: Field, draft: string[]): Filled {
  const errors: Record<string, string> = {};
  const value = draft.map((text, index): Json => {
    if (field.items === "string") return text;
    const made = text.trim() === "" ? null : numberOf(text, field.items!);
    if (made === null) errors[`${field.path}.${index}`] = "This is no number.";
    return made;
  });
  return { value: draft.length || field.required ? value : undefined, errors };
}

function objectValue(field: Field, draft: { [name: string]: Draft }): Filled {
  const made: Record<string, Json> = {};
  let errors: Record<string, string> = {};
  for (const one of field.fields!) {
    // An object that need not be there is only asked for what it needs once something of it is filled in.
    const filled = valueOf(one, draft[one.name] ?? draftOf(one));
    errors = { ...errors, ...filled.errors };
    if (filled.value !== undefined) made[one.name] = filled.value;
  }
  if (!field.required && untouched(field, draft)) return { value: undefined, errors: {} };
  return { value: made, errors };
}

function untouched(field: Field, draft: Draft): boolean {
  return JSON.stringify(draft) === JSON.stringify(draftOf(field, undefined));
}
