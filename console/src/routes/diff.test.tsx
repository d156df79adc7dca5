import { expect, it } from "vitest";
import { change } from "@/routes/diff";

it("writes by how much the second run differs, and nothing where that says nothing", () => {
  expect(change(100, 150)).toBe("+50 %");
  expect(change(100, 97)).toBe("−3 %");
  expect(change(1, 50)).toBe("× 50");
  expect(change(0, 5)).toBe("new");
  expect(change(1000, 1001)).toBe("+<1 %");
  expect([change(5, 5), change(null, 5), change(5, null)]).toEqual(["", "", ""]);
});
