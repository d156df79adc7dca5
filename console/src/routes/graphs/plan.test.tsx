import { describe, expect, it } from "vitest";
import type { GraphStep } from "@/api/types";
import { doneBy, drawn, isDecider, nodeSize, placed, smooth } from "@/routes/graphs/plan";

const step = (name: string, depends_on: GraphStep["depends_on"] = [], more: Partial<GraphStep> = {}): GraphStep => ({ name, kind: "agent", tool: "agent", depends_on, when: null, input: null, queue: "default", priority: 0, timeout_s: null, compensate: null, retry: {}, ...more });
const triage = [
  step("classify"),
  step("refund", ["classify", "when.classify.refund"], { when: "outputs…" }),
  step("escalate", ["classify"], { when: "output.urgent" }),
  step("close", ["refund", "escalate"]),
  step("when.classify.refund", ["classify"], { kind: "policy", tool: "triage.when.classify.refund" }),
];

describe("a graph as its author drew it", () => {
  it("has no step that only decides about a way", () => {
    const { steps, ways } = drawn(triage);
    expect(steps.map((one) => one.name)).toEqual(["classify", "refund", "escalate", "close"]);
    expect(ways).toEqual([
      { from: "classify", to: "refund", conditional: true }, { from: "classify", to: "escalate", conditional: true },
      { from: "refund", to: "close", conditional: false }, { from: "escalate", to: "close", conditional: false },
    ]);
  });

  it("has a condition on the way that has one", () => {
    const { ways } = drawn([step("a"), step("b"), step("c", ["a", { step: "b", when: "output.ok" }])]);
    expect(ways.map((way) => [way.from, way.conditional])).toEqual([["a", false], ["b", true]]);
  });

  it("keeps a policy that its author wrote", () => {
    expect(isDecider(step("when.it.rains", [], { kind: "policy", tool: "umbrella" }))).toBe(false);
    expect(isDecider(triage[4]!)).toBe(true);
  });

  it("is placed without steps upon each other, in the order of the work", () => {
    for (const across of [true, false]) {
      const size = nodeSize(across);
      const { nodes, ways, width, height } = placed(triage, across);
      const at = new Map(nodes.map((node) => [node.step.name, node]));
      const along = (name: string) => (across ? at.get(name)!.x : at.get(name)!.y);
      expect(along("classify")).toBeLessThan(along("refund"));
      expect(along("refund")).toBeLessThan(along("close"));
      for (const a of nodes) {
        for (const b of nodes) {
          if (a !== b) expect(Math.abs(a.x - b.x) >= size.width || Math.abs(a.y - b.y) >= size.height).toBe(true);
        }
        expect(a.x + size.width).toBeLessThanOrEqual(width);
        expect(a.y + size.height).toBeLessThanOrEqual(height);
      }
      expect(ways.every((way) => way.path.startsWith("M"))).toBe(true);
    }
  });

  it("of nothing is nothing", () => {
    expect(placed([], true).nodes).toEqual([]);
    expect(smooth([{ x: 1, y: 1 }])).toBe("");
    expect(smooth([{ x: 0, y: 0 }, { x: 2, y: 2 }])).toBe("M0,0 L2,2");
  });

  it("says what does a step", () => {
    expect([doneBy(step("a", [], { input: { pattern: "swarm" } })), doneBy(step("a")), doneBy(step("a", [], { kind: "tool_call", tool: "echo" })), doneBy(step("a", [], { kind: "approval", tool: "approval" }))])
      .toEqual(["agent · swarm", "agent", "echo", "approval"]);
  });
});
