/** The path the console is served under, with a slash at its end: "/" or "/tools/agents/". */
export const BASE = new URL(document.querySelector("base")?.getAttribute("href") ?? "/", location.origin).pathname;

/** Where a path of the API lies. */
export function apiUrl(path: string): string {
  return BASE + path.replace(/^\//, "");
}

/** Where a WebSocket of the API lies. */
export function socketUrl(path: string): string {
  return `${location.origin.replace(/^http/, "ws")}${apiUrl(path)}`;
}
