import { Activity, Bot, Boxes, Cpu, Gauge, HandHelping, ListTree, Plus, Server, Settings, Skull } from "lucide-react";
import type { ComponentType } from "react";

export interface Place {
  to: string;
  label: string;
  icon: ComponentType<{ className?: string; "aria-hidden"?: boolean }>;
  /** The letter that goes there after `g`. */
  key: string;
  words?: string;
}

/** Where one can go, in the order of the work: what runs, what needs a person, what runs it. */
export const PLACES: readonly Place[] = [
  { to: "/", label: "Dashboard", icon: Activity, key: "d", words: "home overview health" },
  { to: "/runs", label: "Runs", icon: ListTree, key: "r", words: "list search" },
  { to: "/new", label: "New run", icon: Plus, key: "n", words: "start submit dispatch" },
  { to: "/waits", label: "Waits", icon: HandHelping, key: "w", words: "approvals questions people" },
  { to: "/dead-letters", label: "Dead letters", icon: Skull, key: "l", words: "failed redrive" },
  { to: "/agents", label: "Agents", icon: Bot, key: "a" },
  { to: "/tool-servers", label: "Tool servers", icon: Server, key: "t", words: "mcp" },
  { to: "/models", label: "Models and gates", icon: Gauge, key: "m", words: "prices limits providers" },
  { to: "/graphs", label: "Graphs", icon: Boxes, key: "h" },
  { to: "/workers", label: "Workers", icon: Cpu, key: "k", words: "load lag" },
  { to: "/settings", label: "Settings", icon: Settings, key: "s", words: "key theme" },
];
