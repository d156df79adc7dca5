/** A graph as it was drawn by its author: steps, and ways between them that may have a condition. */
import { Graph as Dagre, layout } from "@dagrejs/dagre";
import type { GraphStep } from "@/api/types";

export interface Way {
  from: string;
  to: string;
  /** Taken only if a condition says so. */
  conditional: boolean;
}

export interface Placed {
  nodes: { step: GraphStep; x: number; y: number }[];
  ways: { way: Way; path: string }[];
  width: number;
  height: number;
}

/** Two beside each other fit on a telephone. */
export function nodeSize(across: boolean): { width: number; height: number } {
  return { width: across ? 188 : 152, height: 52 };
}

/** A condition that is a function runs as a step of its own, `when.FROM.TO`; its author drew a way. */
export function isDecider(step: GraphStep): boolean {
  return step.kind === "policy" && step.name.startsWith("when.") && (step.tool ?? "").endsWith(`.${step.name}`);
}

/** What a step comes after, and under which condition if the way has one of its own. */
export function edgesOf(step: GraphStep): { from: string; when: string | null }[] {
  return step.depends_on.map((one) => (typeof one === "string" ? { from: one, when: null } : { from: one.step, when: one.when }));
}

/** The steps and the ways as they were drawn, without the steps that only decide about a way. */
export function drawn(steps: readonly GraphStep[]): { steps: GraphStep[]; ways: Way[] } {
  const deciders = new Set(steps.filter(isDecider).map((step) => step.name));
  const shown = steps.filter((step) => !deciders.has(step.name));
  const known = new Set(shown.map((step) => step.name));
  const ways = shown.flatMap((step) =>
    edgesOf(step).filter(({ from }) => known.has(from)).map(({ from, when }): Way => {
      const guarded = edgesOf(step).some((one) => deciders.has(one.from));
      return { from, to: step.name, conditional: when !== null || deciders.has(`when.${from}.${step.name}`) || (step.when !== null && !guarded) };
    }),
  );
  return { steps: shown, ways };
}

/** Where each step is drawn, and the way of each line; from left to right, or downwards on a narrow screen. */
export function placed(steps: readonly GraphStep[], across: boolean): Placed {
  const { steps: shown, ways } = drawn(steps);
  const node = nodeSize(across);
  const graph = new Dagre();
  graph.setGraph({ rankdir: across ? "LR" : "TB", nodesep: 20, ranksep: across ? 52 : 36, marginx: 2, marginy: 2 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const step of shown) graph.setNode(step.name, { ...node });
  for (const way of ways) graph.setEdge(way.from, way.to);
  layout(graph as never);
  const size = graph.graph() as { width?: number; height?: number };
  return {
    nodes: shown.map((step) => {
      const { x, y } = graph.node(step.name) as { x: number; y: number };
      return { step, x: x - node.width / 2, y: y - node.height / 2 };
    }),
    ways: ways.map((way) => ({ way, path: smooth((graph.edge(way.from, way.to) as { points?: Point[] }).points ?? []) })),
    width: Math.ceil(size.width ?? 0),
    height: Math.ceil(size.height ?? 0),
  };
}

interface Point {
  x: number;
  y: number;
}

/** A line through the points, its corners rounded. */
export function smooth(points: readonly Point[]): string {
  if (points.length < 2) return "";
  const [first, ...rest] = points as [Point, ...Point[]];
  const at = ({ x, y }: Point) => `${Math.round(x * 10) / 10},${Math.round(y * 10) / 10}`;
  let path = `M${at(first)}`;
  rest.slice(0, -1).forEach((point, index) => {
    const next = rest[index + 1]!;
    const last = index === rest.length - 2;
    path += ` Q${at(point)} ${at(last ? next : { x: (point.x + next.x) / 2, y: (point.y + next.y) / 2 })}`;
  });
  return rest.length === 1 ? `${path} L${at(rest[0]!)}` : path;
}

/** What does a step, in a word or two. */
export function doneBy(step: GraphStep): string {
  const pattern = (step.input as { pattern?: unknown } | null)?.pattern;
  if (step.kind === "agent") return typeof pattern === "string" ? `agent · ${pattern}` : "agent";
  return step.tool && step.tool !== step.kind ? step.tool : step.kind;
}
