import { describe, expect, it } from "vitest";
import { count, duration, money } from "@/lib/format";
import { pieces } from "@/lib/visible";

describe("figures", () => {
  it.each([
    [0, "$0"], [12, "$0.000012"], [1200, "$0.0012"], [25_000, "$0.025"], [2_420_000, "$2.42"], [1_234_500_000, "$1,234.50"],
  ])("%i micro-dollars are %s", (microusd, text) => expect(money(microusd)).toBe(text));

  it.each([
    [0.0421, "42 ms"], [3.21, "3.2 s"], [42.4, "42 s"], [250, "4 min 10 s"], [7500, "2 h 5 min"], [273_600, "3 d 4 h"], [-1, "0 ms"],
  ])("%f seconds are %s", (seconds, text) => expect(duration(seconds)).toBe(text));

  it("counts short", () => {
    expect([count(999), count(9_999), count(12_345)]).toEqual(["999", "9,999", "12.3K"]);
  });
});

describe("what cannot be seen", () => {
  it("is shown by its code point, everything else as it is", () => {
    const text = "pay\u202e\u200b 5 €\n\tto ümläut 👩‍🚀\u{e0041}\u0000";
    expect(pieces(text).filter((one) => one.hidden).map((one) => one.text)).toEqual(["U+202E", "U+200B", "U+200D", "U+E0041", "U+0000"]);
    expect(pieces("plain\nand\ttabbed")).toEqual([{ text: "plain\nand\ttabbed", hidden: false }]);
  });
});
