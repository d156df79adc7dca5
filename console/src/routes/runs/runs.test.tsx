import { describe, expect, it } from "vitest";
import { Problem } from "@/api/client";
import type { Page } from "@/api/types";
import { forEach, summary } from "@/routes/runs/bulk";
import { apiFilter, namedRun, statusesOf, statusLabel } from "@/routes/runs/filter";
import { heldBack, PAGE, pageOf, patched, type Pages } from "@/routes/runs/pages";

interface Row { id: string; note?: string }
const row = (no: number, note?: string): Row => ({ id: String(no).padStart(6, "0"), ...(note ? { note } : {}) });
const rows = (from: number, to: number, note?: string): Row[] => Array.from({ length: from - to + 1 }, (_, index) => row(from - index, note));
const page = (items: Row[], next: string | null = items.at(-1)?.id ?? null): Page<Row> => ({ items, next_cursor: next });
const flat = (known: Pages<Row>) => known.pages.flatMap((one) => one.items.map((item) => Number(item.id)));
const known = (): Pages<Row> => ({ pages: [page(rows(300, 201)), page(rows(200, 101)), page(rows(100, 1), null)], pageParams: [null, "000201", "000101"] });

describe("pages of a list that is kept current", () => {
  it("put news before what is known, without a row twice or missing", () => {
    const made = patched(known(), 0, page(rows(305, 206)));
    expect(flat(made)).toEqual(rows(305, 1).map((one) => Number(one.id)));
    expect(made.pageParams).toHaveLength(made.pages.length);
  });

  it("stay readable from each page's own cursor however often the first is read again", () => {
    let now = known();
    for (let newest = 301; newest < 700; newest += 1) {
      now = patched(now, 0, page(rows(newest, newest - PAGE + 1)));
      expect(now.pages.every((one) => one.items.length <= PAGE)).toBe(true);
      now.pages.slice(1).forEach((one, index) => expect(Number(now.pageParams[index + 1])).toBe(Number(one.items[0]!.id) + 1));
    }
    expect(flat(now)).toEqual(rows(699, 1).map((one) => Number(one.id)));
  });

  it("lose what is gone between the first and the last row of an answer, and nothing else", () => {
    const fresh = page(rows(200, 95).filter((one) => Number(one.id) % 2 === 0).slice(0, PAGE), "000096");
    const made = flat(patched(known(), 1, fresh));
    expect(made).toContain(198);
    expect(made).not.toContain(199);
    expect(made).not.toContain(97);
    expect(made).toContain(95);
    expect(made).toContain(201);
  });

  it("take the newer word on a row", () => {
    const made = patched(known(), 1, page(rows(200, 101, "new")));
    expect(made.pages[1]!.items[5]!.note).toBe("new");
    expect(made.pages[0]!.items[5]!.note).toBeUndefined();
  });

  it("begin anew when the answer does not reach what is known: between them may be anything", () => {
    expect(flat(patched(known(), 0, page(rows(900, 801))))).toEqual(rows(900, 801).map((one) => Number(one.id)));
  });

  it("end where the answer says that nothing more is", () => {
    const made = patched(known(), 1, page(rows(200, 150), null));
    expect(flat(made).at(-1)).toBe(150);
    expect(made.pages.at(-1)!.next_cursor).toBeNull();
    expect(flat(patched(known(), 0, page([], null)))).toEqual([]);
  });

  it("hold back what is newer than the first known row", () => {
    const { news, page: held } = heldBack(known(), page(rows(305, 206)));
    expect(news).toBe(5);
    expect(held.items[0]!.id).toBe("000300");
  });

  it("know on which page a row is", () => {
    expect([0, 99, 100, 299, 5000].map((index) => pageOf(known().pages, index))).toEqual([0, 0, 1, 2, 2]);
  });
});

describe("the filter in the address", () => {
  const now = Date.parse("2026-01-02T00:00:00Z");
  it("names statuses by commas and drops what is none", () => {
    expect(apiFilter({ status: "failed,running,nonsense, completed" }, now).status).toEqual(["running", "completed", "failed"]);
    expect(apiFilter({ status: "nonsense" }, now)).toEqual({});
  });
  it("counts a preset back from now and takes a time as it is", () => {
    expect(apiFilter({ since: "24h", until: "2026-01-01T12:00:00.000Z" }, now)).toEqual({ since: "2026-01-01T00:00:00.000Z", until: "2026-01-01T12:00:00.000Z" });
    expect(apiFilter({ since: "yesterday-ish" }, now)).toEqual({});
  });
  it("knows a whole id from words", () => {
    expect(namedRun(" 01A1FEE9-5ccd-75ad-8882-84338b8956f7 ")).toBe("01a1fee9-5ccd-75ad-8882-84338b8956f7");
    expect(namedRun("01a1fee9")).toBeNull();
  });
  it("says what is chosen", () => {
    expect(statusLabel(statusesOf({}))).toBe("Any status");
    expect(statusLabel(statusesOf({ status: "waiting_for_approval" }))).toBe("needs approval");
    expect(statusLabel(statusesOf({ status: "failed,running,completed" }))).toBe("3 statuses");
  });
});

describe("one thing done to many", () => {
  it("goes on past refusals, keeps the order, and a few are under way at once", async () => {
    let going = 0;
    let most = 0;
    const outcomes = await forEach(Array.from({ length: 40 }, (_, index) => `run-${index}`), async (id) => {
      most = Math.max(most, (going += 1));
      await Promise.resolve();
      going -= 1;
      if (id.endsWith("7")) throw new Problem(409, "", "Conflict", `run ${id} is completed`);
    });
    expect(outcomes.map((one) => one.id)).toEqual(Array.from({ length: 40 }, (_, index) => `run-${index}`));
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(6);
    expect(summary(outcomes)).toEqual({ done: 36, refused: [{ why: "run … is completed", ids: ["run-7", "run-17", "run-27", "run-37"] }] });
  });
});
