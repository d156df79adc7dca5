import type { ToolServer } from "@/api/types";
import { Tag, type Tone } from "@/components/status";

/** What each state of a tool server is called, and how soon somebody should look. */
const STATES: Record<string, { label: string; tone: Tone; rank: number }> = {
  quarantined: { label: "quarantined", tone: "bad", rank: 0 },
  unreachable: { label: "unreachable", tone: "bad", rank: 1 },
  new: { label: "not discovered", tone: "wait", rank: 2 },
  ready: { label: "ready", tone: "good", rank: 4 },
};
const UNKNOWN = { tone: "idle" as Tone, rank: 3 };

export function StateTag({ state }: { state: string }) {
  const { label, tone } = STATES[state] ?? { ...UNKNOWN, label: state };
  return <Tag tone={tone}>{label}</Tag>;
}

/** Those that need somebody first, then by name. */
export function inOrder(servers: readonly ToolServer[]): ToolServer[] {
  const rank = (server: ToolServer) => (STATES[server.state] ?? UNKNOWN).rank;
  return [...servers].sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
}

/** Where a server is, as an operator wrote it. */
export function placeOf(server: ToolServer): string {
  return server.url ?? (server.command ?? []).map((part) => (/^[\w@%+=:,./-]+$/.test(part) ? part : JSON.stringify(part))).join(" ");
}
