import { describe, expect, it } from "vitest";
import { HEIGHT, WIDTH, byLayers, labelOf, layoutOf, linesOf, shapesOf, structureOf, type Drawable, type Places } from "@/routes/run/graph/layout";

const step = (name: string, depends_on: string[] = [], more: Partial<Drawable> = {}): Drawable => ({ name, depends_on, when: null, spawned_by: null, compensates: null, ...more });
const fan = (many: number) => [step("start"), ...Array.from({ length: many }, (_, no) => step(`p${no}`, ["start"])), step("join", Array.from({ length: many }, (_, no) => `p${no}`))];

function overlapping(places: Places): boolean {
  const all = [...places.values()];
  return all.some((a, i) => all.some((b, j) => i < j && Math.abs(a.x - b.x) < WIDTH && Math.abs(a.y - b.y) < HEIGHT));
}

describe("layoutOf", () => {
  it("puts every step right of what it waits for", () => {
    const shapes = shapesOf(structureOf([step("c", ["a", "b"]), step("a"), step("b", ["a"])]));
    const { places } = layoutOf(shapes);
    expect(places.get("a")!.x).toBeLessThan(places.get("b")!.x);
    expect(places.get("b")!.x).toBeLessThan(places.get("c")!.x);
    expect(overlapping(places)).toBe(false);
  });

  it("folds a fan of a thousand into a block, without an overlap, and bundles its edges", () => {
    const shapes = shapesOf(structureOf(fan(998)));
    const { places, blocks } = layoutOf(shapes);
    expect(places.size).toBe(1000);
    expect(overlapping(places)).toBe(false);
    expect(blocks).toHaveLength(1);
    expect(Math.max(...[...places.values()].map(({ y }) => y)) - Math.min(...[...places.values()].map(({ y }) => y))).toBeLessThan(5000);
    expect(linesOf(shapes, blocks)).toEqual([{ source: "start", target: blocks[0]!.id, count: 998 }, { source: blocks[0]!.id, target: "join", count: 998 }]);
  });

  it("keeps long chains straight and draws each of their edges", () => {
    const chains = Array.from({ length: 600 }, (_, no) => step(`s${no}`, no < 50 ? [] : [`s${no - 50}`]));
    const shapes = shapesOf(structureOf(chains));
    const { places, blocks } = layoutOf(shapes);
    expect(places.get("s7")!.y).toBe(places.get("s557")!.y);
    expect(linesOf(shapes, blocks)).toHaveLength(550);
  });

  it("survives a circle, a parent that is not there, and ten thousand in a row", () => {
    expect(byLayers([{ name: "a", parents: ["b"], labelled: false }, { name: "b", parents: ["a", "gone"], labelled: false }]).places.size).toBe(2);
    const row = Array.from({ length: 10_000 }, (_, no) => ({ name: `s${no}`, parents: no ? [`s${no - 1}`] : [], labelled: false }));
    expect(byLayers(row).places.size).toBe(10_000);
  });
});

describe("structureOf", () => {
  it("is the same whatever the status, and takes any name", () => {
    const odd = "a\u0001\"b\u0002";
    expect(structureOf([{ ...step(odd), status: "running" } as Drawable])).toBe(structureOf([step(odd)]));
    expect(shapesOf(structureOf([step(odd), step("b", [odd])]))[1]!.parents).toEqual([odd]);
  });

  it("draws added steps after the one that added them", () => {
    expect(shapesOf(structureOf([step("a"), step("b", [], { spawned_by: "a" }), step("u", [], { compensates: "b" })])).map(({ parents }) => parents)).toEqual([[], ["a"], ["b"]]);
  });
});

it("says on an edge when it is taken, unless there are too many", () => {
  expect(labelOf(step("b", ["a"], { when: "x > 1" }))).toBe("if x > 1");
  expect(labelOf(step("b", ["a", "b", "c"], { when: "x > 1" }))).toBeNull();
  expect(labelOf(step("b", ["a"], { when: "x".repeat(99) }))!.length).toBeLessThan(30);
});
