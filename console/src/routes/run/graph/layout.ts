/** Where the steps of a graph stand: by dagre while it is small, by layers that wrap when it is large. */
import { Graph, layout } from "@dagrejs/dagre";

export const WIDTH = 224;
export const HEIGHT = 68;
const BETWEEN_RANKS = 72;
const BETWEEN_NODES = 18;
/** dagre orders crossings well and slowly: seconds at a thousand steps. */
const SMALL = { nodes: 120, edges: 300 };
/** A layer of more is folded into a block, so that a fan of a thousand is not sixty screens high. */
const COLUMN = 60;
/** From so many on, edges between a step and a block are drawn as one: a thousand lines say nothing. */
const BUNDLE = 12;
const MARGIN = 14;

/** An edge that says when it is taken needs room for the words. */
const LABEL = { characters: 24, width: 150 };
const LABELLED_PARENTS = 2;

export interface Drawable {
  name: string;
  depends_on: readonly string[];
  when: string | null;
  spawned_by: string | null;
  compensates: string | null;
}

export interface Shape {
  name: string;
  parents: readonly string[];
  labelled: boolean;
}

export type Places = Map<string, { x: number; y: number }>;

/** A layer that was folded: a frame around its steps, which edges can end at. */
export interface Block {
  id: string;
  x: number;
  y: number;
  width: number;
  height: number;
  members: ReadonlySet<string>;
}

export interface Layout {
  places: Places;
  blocks: readonly Block[];
}

export interface Line {
  source: string;
  target: string;
  /** How many edges it stands for. */
  count: number;
}

/** Return what the layout depends on, as a text: two runs of one graph have the same. */
export function structureOf(steps: readonly Drawable[]): string {
  return JSON.stringify(steps.map((step): Shape => ({ name: step.name, parents: parentsOf(step), labelled: labelOf(step) !== null })));
}

/** Return what a step is drawn after: what it waits for; without that, the step that added it or that it undoes. */
export function parentsOf(step: Drawable): readonly string[] {
  if (step.depends_on.length) return step.depends_on;
  const of = step.spawned_by ?? step.compensates;
  return of === null ? [] : [of];
}

/** Return what the edges to a step say, or null: with many parents its panel says it. */
export function labelOf(step: { depends_on: readonly string[]; when: string | null }): string | null {
  if (!step.when || !step.depends_on.length || step.depends_on.length > LABELLED_PARENTS) return null;
  return `if ${step.when.length > LABEL.characters ? `${step.when.slice(0, LABEL.characters - 1)}…` : step.when}`;
}

export function shapesOf(structure: string): Shape[] {
  return JSON.parse(structure) as Shape[];
}

/** Return the upper left corner of each step, left to right. */
export function layoutOf(shapes: readonly Shape[]): Layout {
  const edges = shapes.reduce((sum, shape) => sum + shape.parents.length, 0);
  return shapes.length <= SMALL.nodes && edges <= SMALL.edges ? { places: byDagre(shapes), blocks: [] } : byLayers(shapes);
}

/** Return the lines to draw: each edge one, but those between a step and many of a block, which are one together. */
export function linesOf(shapes: readonly Shape[], blocks: readonly Block[]): Line[] {
  const blockOf = new Map<string, string>();
  for (const block of blocks) for (const name of block.members) blockOf.set(name, block.id);
  const lines: Line[] = [];
  const bundles = new Map<string, { source: string; target: string; edges: Line[] }>();
  const names = new Set(shapes.map((shape) => shape.name));
  for (const { name, parents } of shapes) {
    for (const parent of parents) {
      if (!names.has(parent)) continue;
      const line = { source: parent, target: name, count: 1 };
      const [source, target] = [blockOf.get(parent) ?? parent, blockOf.get(name) ?? name];
      if (source === parent && target === name) {
        lines.push(line);
        continue;
      }
      const key = JSON.stringify([source, target]);
      const bundle = bundles.get(key);
      if (bundle) bundle.edges.push(line);
      else bundles.set(key, { source, target, edges: [line] });
    }
  }
  for (const { source, target, edges } of bundles.values()) {
    if (edges.length >= BUNDLE) lines.push({ source, target, count: edges.length });
    else lines.push(...edges);
  }
  return lines;
}

function byDagre(shapes: readonly Shape[]): Places {
  const graph = new Graph();
  graph.setGraph({ rankdir: "LR", nodesep: BETWEEN_NODES, ranksep: BETWEEN_RANKS, marginx: 8, marginy: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  const names = new Set(shapes.map((shape) => shape.name));
  for (const { name } of shapes) graph.setNode(name, { width: WIDTH, height: HEIGHT });
  for (const { name, parents, labelled } of shapes) {
    const room = labelled ? { width: LABEL.width, height: 16, labelpos: "c" } : {};
    for (const parent of parents) if (names.has(parent)) graph.setEdge(parent, name, room);
  }
  layout(graph);
  return new Map(shapes.map(({ name }) => {
    const { x, y } = graph.node(name) as { x: number; y: number };
    return [name, { x: x - WIDTH / 2, y: y - HEIGHT / 2 }];
  }));
}

/** Each step one layer right of its last parent; within a layer near the middle of its parents; long layers folded. */
export function byLayers(shapes: readonly Shape[]): Layout {
  const layers: string[][] = [];
  const ranks = ranksOf(shapes);
  for (const { name } of shapes) (layers[ranks.get(name)!] ??= []).push(name);
  const parents = new Map(shapes.map((shape) => [shape.name, shape.parents]));
  const places: Places = new Map();
  const blocks: Block[] = [];
  let left = 0;
  for (const layer of layers) {
    const middle = (name: string) => {
      const known = (parents.get(name) ?? []).map((parent) => places.get(parent)?.y).filter((y) => y !== undefined);
      return known.length ? known.reduce((sum, y) => sum + y, 0) / known.length : 0;
    };
    const ordered = layer.map((name, index) => ({ name, index, at: middle(name) })).sort((a, b) => a.at - b.at || a.index - b.index);
    const folded = ordered.length > COLUMN;
    const rows = folded ? Math.ceil(Math.sqrt(ordered.length * 1.6)) : ordered.length;
    const top = (-rows * (HEIGHT + BETWEEN_NODES)) / 2;
    ordered.forEach(({ name }, index) => {
      const column = Math.floor(index / rows);
      places.set(name, { x: left + column * (WIDTH + BETWEEN_NODES), y: top + (index % rows) * (HEIGHT + BETWEEN_NODES) });
    });
    const columns = Math.ceil(ordered.length / rows);
    const width = columns * WIDTH + (columns - 1) * BETWEEN_NODES;
    if (folded) {
      blocks.push({
        id: `\u0002block ${blocks.length}`, members: new Set(layer), x: left - MARGIN, y: top - MARGIN, width: width + 2 * MARGIN,
        height: rows * (HEIGHT + BETWEEN_NODES) - BETWEEN_NODES + 2 * MARGIN,
      });
    }
    left += width + (folded || shapes.length > COLUMN ? 2 * BETWEEN_RANKS : BETWEEN_RANKS);
  }
  return { places, blocks };
}

/** Return how far each step is from a root, counted along the longest way. No recursion: a chain may have thousands. */
function ranksOf(shapes: readonly Shape[]): Map<string, number> {
  const ranks = new Map<string, number>();
  const left = new Map<string, number>();
  const children = new Map<string, string[]>();
  const names = new Set(shapes.map((shape) => shape.name));
  for (const { name, parents } of shapes) {
    const known = parents.filter((parent) => names.has(parent));
    left.set(name, known.length);
    for (const parent of known) {
      const list = children.get(parent);
      if (list) list.push(name);
      else children.set(parent, [name]);
    }
  }
  const wave = shapes.filter(({ name }) => left.get(name) === 0).map(({ name }) => name);
  for (const name of wave) ranks.set(name, 0);
  for (let index = 0; index < wave.length; index += 1) {
    const name = wave[index]!;
    for (const child of children.get(name) ?? []) {
      ranks.set(child, Math.max(ranks.get(child) ?? 0, ranks.get(name)! + 1));
      left.set(child, left.get(child)! - 1);
      if (left.get(child) === 0) wave.push(child);
    }
  }
  // The engine refuses circles; should one be shown all the same, it is shown somewhere.
  for (const { name } of shapes) if (!ranks.has(name)) ranks.set(name, 0);
  return ranks;
}
