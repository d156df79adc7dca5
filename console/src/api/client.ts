/** The one way to the API: the key, the problem documents, the JSON. */
import { apiUrl } from "@/lib/base";

const KEY = "durable-agent.key";

/** What the API answered instead of what was asked: an RFC 9457 problem document. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly type: string,
    readonly title: string,
    readonly detail: string,
    readonly field: string | null = null,
    readonly body: Record<string, unknown> = {},
  ) {
    super(detail || title);
    this.name = "Problem";
  }
}

export function storedKey(): string {
  return localStorage.getItem(KEY) ?? "";
}

export function storeKey(key: string): void {
  if (key) localStorage.setItem(KEY, key);
  else localStorage.removeItem(KEY);
}

function headers(more?: HeadersInit): Headers {
  const made = new Headers(more);
  made.set("Accept", "application/json");
  const key = storedKey();
  if (key) made.set("Authorization", `Bearer ${key}`);
  return made;
}

async function problemOf(response: Response): Promise<Problem> {
  let body: Record<string, unknown> = {};
  try {
    body = (await response.json()) as Record<string, unknown>;
  } catch {
    // A proxy answered, with whatever it says.
  }
  const text = (name: string) => (typeof body[name] === "string" ? (body[name] as string) : "");
  return new Problem(
    response.status,
    text("type"),
    text("title") || `HTTP ${response.status}`,
    text("detail"),
    text("field") || null,
    body,
  );
}

async function send(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(apiUrl(path), { ...init, headers: headers(init.headers), credentials: "omit" });
  } catch {
    throw new Problem(0, "unreachable", "The server cannot be reached", "Check that durable-agent is running; this page tries again by itself.");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** Read JSON. Throws Problem. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await send(path, { method: "GET", signal: signal ?? null })).json()) as T;
}

/** Send JSON, read JSON; nothing when there is none. Throws Problem. */
export async function call<T>(method: "POST" | "PUT" | "DELETE", path: string, body?: unknown, more?: HeadersInit): Promise<T> {
  const init: RequestInit = { method, headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...more } };
  if (body !== undefined) init.body = typeof body === "string" ? body : JSON.stringify(body);
  const response = await send(path, init);
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

/** Hand a file of the API to the browser's downloads. Throws Problem. */
export async function download(path: string, name: string): Promise<void> {
  const url = URL.createObjectURL(await (await send(path, { method: "GET" })).blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}

/** Return the query string of what is given, without what is not. */
export function queryOf(given: Record<string, string | number | readonly string[] | null | undefined>): string {
  const made = new URLSearchParams();
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === "") continue;
    for (const one of Array.isArray(value) ? value : [value]) made.append(name, String(one));
  }
  const text = made.toString();
  return text ? `?${text}` : "";
}
