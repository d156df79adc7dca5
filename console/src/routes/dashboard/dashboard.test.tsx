import { describe, expect, it } from "vitest";
import type { Health, Stats } from "@/api/types";
import { rateText } from "@/routes/dashboard/charts";
import { GROUPS, inGroup, sliceTimes, stuckTexts, windowOf } from "@/routes/dashboard/figures";
import { extraAttempts, redriveAll } from "@/routes/dead-letters/redrive";
import { RUN_STATUSES } from "@/routes/runs/filter";

describe("the dashboard", () => {
  it("counts every status in exactly one group", () => {
    expect(GROUPS.flatMap((group) => group.statuses).sort()).toEqual([...RUN_STATUSES].sort());
    expect(inGroup(GROUPS[0]!, { running: 3, pending: 2, failed: 9 })).toBe(5);
  });
  it("puts the slices before the time of the figures", () => {
    const stats = { at: "1970-01-01T01:00:00Z", slice_s: 60, window_s: 180, runs_by_status: {}, series: { started: [1, 2, 3] } } as unknown as Stats;
    expect(sliceTimes(stats)).toEqual([3420, 3480, 3540]);
  });
  it("reads what is stuck, whether it comes as texts or as objects", () => {
    expect(stuckTexts({ stuck: ["no worker", { text: "old" }] } as unknown as Health)).toEqual(["no worker", "old"]);
    expect(stuckTexts(undefined)).toEqual([]);
  });
  it("takes a window of the address only when there is one", () => {
    expect([windowOf("24h"), windowOf("2y"), windowOf(undefined)]).toEqual(["24h", "1h", "1h"]);
  });
  it("writes a rate with as many digits as tell something", () => {
    expect([0, 0.01234, 2.345, 1234].map(rateText)).toEqual(["0", "0.012", "2.3", "1,234"]);
  });
});

describe("a redrive", () => {
  it("says all only when nothing is filtered", () => {
    expect(redriveAll({}, null)).toEqual({ all: true });
    expect(redriveAll({ reason: "poisoned", tool: "wire" }, 3)).toEqual({ reason: "poisoned", tool: "wire", extra_attempts: 3 });
  });
  it("takes attempts as a whole number in bounds", () => {
    expect(["", "5", "0", "1001", "x", "1.5"].map(extraAttempts)).toEqual([null, 5, undefined, undefined, undefined, undefined]);
  });
});
