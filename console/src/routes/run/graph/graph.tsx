import { Background, Controls, MiniMap, Position, ReactFlow, ReactFlowProvider, useReactFlow, type Edge, type ReactFlowInstance } from "@xyflow/react";
import { useCallback, useEffect, useMemo, useRef } from "react";
import type { Step } from "@/api/types";
import { STATUS } from "@/components/status";
import { pieces } from "@/lib/visible";
import { HEIGHT, WIDTH, labelOf, layoutOf, linesOf, shapesOf, structureOf, type Layout, type Line, type Places } from "@/routes/run/graph/layout";
import { BlockBox, StepBox, type BlockNode, type StepNode } from "@/routes/run/graph/node";

interface Props {
  steps: readonly Step[];
  selected: string | null;
  onSelect: (name: string) => void;
}

type AnyNode = StepNode | BlockNode;

const KINDS = { step: StepBox, block: BlockBox };
const LARGE = 40;
const READABLE = 0.5;
const COLOUR = { good: "var(--good)", busy: "var(--busy)", wait: "var(--wait)", bad: "var(--bad)", idle: "var(--strong)" };

/** Where the edges meet a box; told beforehand, so that what is not drawn need not be measured. */
const handlesOf = (width: number, height: number) => [
  { type: "target" as const, position: Position.Left, x: 0, y: height / 2, width: 1, height: 1 },
  { type: "source" as const, position: Position.Right, x: width, y: height / 2, width: 1, height: 1 },
];
const HANDLES = handlesOf(WIDTH, HEIGHT);

/** The graph of the run, laid out once by its structure and coloured by how its steps stand. */
export default function GraphView(props: Props) {
  return (
    <ReactFlowProvider>
      <Drawn {...props} />
    </ReactFlowProvider>
  );
}

function Drawn({ steps, selected, onSelect }: Props) {
  const structure = structureOf(steps);
  const { layout, lines } = useMemo(() => {
    const shapes = shapesOf(structure);
    const made = layoutOf(shapes);
    return { layout: made, lines: linesOf(shapes, made.blocks) };
  }, [structure]);
  const nodes = useNodes(steps, layout, selected, onSelect);
  const edges = useEdges(steps, lines);
  const frame = useRef<HTMLDivElement>(null);
  const begin = useCallback((flow: ReactFlowInstance<AnyNode>) => start(flow, layout.places, frame.current), [layout]);
  return (
    <div ref={frame} className="h-full">
      <ReactFlow<AnyNode>
        nodes={nodes}
        edges={edges}
        nodeTypes={KINDS}
        nodesDraggable={false}
        nodesConnectable={false}
        nodesFocusable={false}
        edgesFocusable={false}
        elementsSelectable={false}
        onlyRenderVisibleElements
        onInit={begin}
        minZoom={0.05}
        maxZoom={1.5}
        proOptions={{ hideAttribution: true }}
        aria-label={`Graph of ${steps.length} steps`}
      >
        <Background gap={20} size={1} color="var(--line)" />
        <Controls showInteractive={false} position="bottom-left" className="overflow-hidden rounded-md border bg-panel" />
        {steps.length > LARGE && <Overview />}
        <Reveal selected={selected} places={layout.places} />
      </ReactFlow>
    </div>
  );
}

/** Show all of a graph that can be read as a whole, and of a larger one its beginning. */
function start(flow: ReactFlowInstance<AnyNode>, places: Places, frame: HTMLElement | null): void {
  if (!frame || !places.size) return;
  const all = [...places.values()];
  const [left, top] = [Math.min(...all.map(({ x }) => x)), Math.min(...all.map(({ y }) => y))];
  const [width, height] = [Math.max(...all.map(({ x }) => x)) + WIDTH - left, Math.max(...all.map(({ y }) => y)) + HEIGHT - top];
  const { clientWidth, clientHeight } = frame;
  const fits = Math.min((clientWidth - 48) / width, (clientHeight - 48) / height, 1);
  const zoom = Math.max(fits, READABLE);
  const x = width * zoom <= clientWidth ? (clientWidth - width * zoom) / 2 - left * zoom : 24 - left * zoom;
  void flow.setViewport({ x, y: clientHeight / 2 - (top + height / 2) * zoom, zoom });
}

function Overview() {
  return (
    <MiniMap<AnyNode>
      pannable
      zoomable
      position="bottom-right"
      ariaLabel="Overview of the graph"
      className="hidden! overflow-hidden rounded-md border md:block!"
      bgColor="var(--panel)"
      maskColor="color-mix(in srgb, var(--page) 70%, transparent)"
      nodeColor={(node) => (node.type === "step" ? COLOUR[STATUS[node.data.step.status].tone] : "transparent")}
      nodeStrokeWidth={0}
    />
  );
}

/** Bring a step that was selected elsewhere into view; one that is in view is left where it is. */
function Reveal({ selected, places }: { selected: string | null; places: Places }) {
  const flow = useReactFlow();
  const shown = useRef<string | null>(null);
  useEffect(() => {
    if (!selected || shown.current === selected) return;
    // After the first placing, which happens once the flow is there.
    const timer = setTimeout(() => {
      shown.current = selected;
      const place = places.get(selected);
      const frame = document.querySelector(".react-flow")?.getBoundingClientRect();
      if (!place || !frame) return;
      const { x, y, zoom } = flow.getViewport();
      const [left, top] = [place.x * zoom + x, place.y * zoom + y];
      const inside = left >= 0 && top >= 0 && left + WIDTH * zoom <= frame.width && top + HEIGHT * zoom <= frame.height;
      if (!inside) void flow.setCenter(place.x + WIDTH / 2, place.y + HEIGHT / 2, { zoom: Math.max(zoom, 0.7), duration: 200 });
    }, 60);
    return () => clearTimeout(timer);
  }, [selected, places, flow]);
  return null;
}

/** Return the nodes; one whose step, place and selection are as they were is the same object, and is not drawn anew. */
function useNodes(steps: readonly Step[], { places, blocks }: Layout, selected: string | null, select: (name: string) => void): AnyNode[] {
  const before = useRef(new Map<string, StepNode>());
  const frames = useMemo(() => blocks.map(({ id, x, y, width, height, members }): BlockNode => ({
    id, type: "block", position: { x, y }, width, height, measured: { width, height }, handles: handlesOf(width, height), zIndex: -1, data: { count: members.size },
  })), [blocks]);
  return useMemo(() => {
    const now = new Map<string, StepNode>();
    for (const step of steps) {
      const position = places.get(step.name) ?? { x: 0, y: 0 };
      const old = before.current.get(step.name);
      const chosen = step.name === selected;
      const same = old && old.data.step === step && old.data.selected === chosen && old.data.select === select && old.position === position;
      now.set(step.name, same ? old : {
        id: step.name, type: "step", position, width: WIDTH, height: HEIGHT, measured: { width: WIDTH, height: HEIGHT }, handles: HANDLES,
        data: { step, selected: chosen, select },
      });
    }
    before.current = now;
    return [...frames, ...now.values()];
  }, [steps, places, frames, selected, select]);
}

/** Return the edges; only a status changes how one is drawn, never a duration or an output. */
function useEdges(steps: readonly Step[], lines: readonly Line[]): Edge[] {
  const statuses = steps.map((step) => step.status).join();
  return useMemo(() => {
    const byName = new Map(steps.map((step) => [step.name, step]));
    return lines.map((line) => edgeOf(line, byName));
    // The steps change with every figure; what is drawn of them here is in `statuses`.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [lines, statuses]);
}

function edgeOf({ source, target, count }: Line, steps: ReadonlyMap<string, Step>): Edge {
  const [from, to] = [steps.get(source), steps.get(target)];
  const done = (!from || from.status === "succeeded") && to !== undefined && to.status !== "skipped" && to.status !== "pending";
  // Nothing went along the edge of a step that was skipped; and who added a step is no one it waits for.
  const dashed = to?.status === "skipped" || (to !== undefined && from !== undefined && !to.depends_on.includes(source));
  const label = count > 1 ? `${count} edges` : to ? labelOf(to) : null;
  return {
    id: `${source}\u0001${target}`, source, target, focusable: false,
    style: { stroke: done ? "var(--faint)" : "var(--strong)", strokeWidth: count > 1 ? 3 : done ? 1.5 : 1, ...(dashed ? { strokeDasharray: "4 4" } : {}) },
    ...(label === null ? {} : labelled(label)),
  };
}

const labelled = (text: string): Partial<Edge> => ({
  // An edge's label is SVG text, where <Plain> cannot stand: what it hides is spelled out all the same.
  label: pieces(text).map((piece) => piece.text).join(""),
  labelStyle: { fill: "var(--soft)", fontSize: 11 },
  labelBgStyle: { fill: "var(--page)" },
  labelBgPadding: [4, 2],
  labelBgBorderRadius: 4,
});
