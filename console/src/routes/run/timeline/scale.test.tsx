import { describe, expect, it } from "vitest";
import { clamp, mark, pan, place, ticks, zoom } from "@/routes/run/timeline/scale";

const WHOLE = [1000, 11_000] as const;

describe("the window", () => {
  it("keeps the moment under the pointer where it is", () => {
    const seen = zoom(WHOLE, 3000, 2, WHOLE);
    expect(seen).toEqual([2000, 7000]);
    expect((3000 - seen[0]) / (seen[1] - seen[0])).toBeCloseTo((3000 - WHOLE[0]) / (WHOLE[1] - WHOLE[0]));
  });

  it("never leaves the whole, nor shrinks to nothing", () => {
    expect(zoom([2000, 3000], 2500, 0.001, WHOLE)).toEqual([1000, 11_000]);
    expect(pan([9000, 11_000], 5000, WHOLE)).toEqual([9000, 11_000]);
    const [from, to] = clamp([5000, 5000], WHOLE);
    expect(to - from).toBeGreaterThan(0);
  });
});

describe("place", () => {
  it("cuts what reaches beyond the window and leaves out what lies beyond", () => {
    expect(place(0, 6000, WHOLE)).toEqual({ left: 0, width: 50 });
    expect(place(12_000, 13_000, WHOLE)).toBeNull();
    expect(place(0, 500, WHOLE)).toBeNull();
  });
});

describe("ticks and marks", () => {
  it("are round, few, and within the window", () => {
    expect(ticks([1000, 11_000], 1000, 5)).toEqual([0, 2000, 4000, 6000, 8000, 10_000]);
    expect(ticks([4500, 5500], 1000, 5).every((ms) => ms >= 3500 && ms <= 4500)).toBe(true);
  });

  it("read as people write times", () => {
    expect([0, 250, 1500, 59_000, 125_000, 3_725_000, 7 * 86_400_000].map(mark)).toEqual(["0", "250 ms", "1.5 s", "59 s", "2:05", "1:02:05", "7 d"]);
  });
});
