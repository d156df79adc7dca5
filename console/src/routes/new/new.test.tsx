import { fireEvent, render, screen } from "@testing-library/react";
import { useState } from "react";
import { describe, expect, it } from "vitest";
import { Problem } from "@/api/client";
import { JsonEditor } from "@/routes/new/editor";
import { lineOf, locate } from "@/routes/new/locate";
import { budgetOf, Keys, NO_BUDGET, told } from "@/routes/new/request";
import { draftOf, fieldOf, valueOf, type Draft } from "@/routes/new/schema";
import { SchemaForm } from "@/routes/new/schema-form";
import { TEMPLATES, templateText } from "@/routes/new/templates";

describe("where a JSON text is wrong", () => {
  it.each([
    ['{"a": 1,}', "A comma stands before the end.", 1, 9],
    ['{\n  "a": tru\n}', "A value is expected.", 2, 8],
    ['{"a" 1}', "A colon is expected.", 1, 6],
    ["[1 2]", "A comma or “]” is expected.", 1, 4],
    ['{"a": 1', "It ends before “}”.", 1, 8],
    ['{"a": 1} x', "Something stands behind the end.", 1, 10],
    ['{"a": 1,\n "a": 2}', "The name “a” stands twice.", 2, 2],
    ["", "There is nothing yet.", 1, 1],
  ])("%s", (text, message, line, column) => {
    expect(locate(text).mistake).toMatchObject({ message, line, column });
  });

  it("agrees with the browser on what is JSON", () => {
    const texts = ['{"a":[1,-2.5e3,"x\\u00e9\\n",true,null,{}],"b":[]}', "01", "1.", "-", '"a\nb"', '"\\x"', "[,]", "{,}", "nul", " 7 ", '{"__proto__":1}', "[1,2,]", '"', "truefalse"];
    for (const text of texts) {
      const right = (() => { try { JSON.parse(text); return true; } catch { return false; } })();
      expect([text, locate(text).mistake === null]).toEqual([text, right]);
    }
  });

  it("does not break on what is nested deep", () => {
    expect(locate("[".repeat(100_000)).mistake?.message).toBe("This is nested too deep.");
  });

  it("knows where each value begins", () => {
    const text = '[\n  {"name": "a"},\n  {"name": "b", "input": {"x": [1, 2]}}\n]';
    expect(lineOf(text, locate(text).at.get("1.input.x.1")!)).toEqual({ line: 3, column: 36 });
  });

  it("finds nothing wrong with the templates", () => {
    for (const template of TEMPLATES) expect(locate(templateText(template)).mistake).toBeNull();
  });
});

describe("what the server refuses", () => {
  const steps = (value: unknown) => ({ located: locate(JSON.stringify(value, null, 2)), value });
  const problem = (body: Record<string, unknown>) => new Problem(422, "", "Invalid", String(body.detail ?? ""), (body.field as string) ?? null, body);

  it("stands at the step it names", () => {
    const value = [{ name: "a" }, { name: "b", dependsOn: ["c"] }];
    const { remarks, rest } = told(problem({ problems: [{ step: "b", code: "unknown_dependency", message: "no step 'c'" }] }), steps(value));
    expect(lineOf(JSON.stringify(value, null, 2), remarks[0]!.offset!).line).toBe(6);
    expect(rest).toBe(false);
  });

  it("stands at the nearest place of a path, also of a field that is not there", () => {
    const value = [{ name: "a", timeoutS: -1 }];
    const { remarks } = told(problem({ errors: [{ field: "steps.0.timeoutS", message: "too small" }, { field: "steps.0.queue", message: "missing" }] }), steps(value));
    expect(remarks.map((one) => lineOf(JSON.stringify(value, null, 2), one.offset!).line)).toEqual([4, 2]);
  });

  it("stands at the field of a form", () => {
    expect(told(problem({ field: "input.customer.age", detail: "input.customer.age: 3 is less than 18" }), null)).toEqual({ fields: { "input.customer.age": "3 is less than 18" }, remarks: [], rest: false });
    expect(told(problem({ errors: [{ field: "budget.wallClockS", message: "too large" }] }), null).fields).toEqual({ "budget.wall_clock_s": "too large" });
  });

  it("is said in full when it has no place", () => {
    expect(told(problem({ detail: "agent 'x' does not exist" }), null).rest).toBe(true);
  });
});

describe("starting once", () => {
  it("uses one key for one request and another for another", () => {
    let made = 0;
    const keys = new Keys(() => String((made += 1)));
    expect([keys.of("a"), keys.of("a"), keys.of("b"), keys.of("b")]).toEqual(["1", "1", "2", "2"]);
  });
  it("takes limits in dollars and minutes", () => {
    expect(budgetOf({ ...NO_BUDGET, dollars: "2.50", minutes: "1.5", on_limit: "pause" }).budget).toEqual({ microusd: 2_500_000, wall_clock_s: 90, on_limit: "pause" });
    expect(budgetOf(NO_BUDGET)).toEqual({ budget: undefined, errors: {} });
    expect(Object.keys(budgetOf({ ...NO_BUDGET, tokens: "many", dollars: "-1" }).errors)).toEqual(["budget.tokens", "budget.microusd"]);
  });
});

const SCHEMA = {
  type: "object", required: ["name", "age", "sure"],
  properties: {
    name: { type: "string" }, age: { type: "integer" }, sure: { type: "boolean" }, region: { enum: ["eu", 7] }, tags: { type: "array", items: { type: "string" } },
    address: { type: "object", required: ["city"], properties: { city: { type: "string", title: "City" }, no: { type: "number" } } },
    odd: { oneOf: [{ type: "string" }] }, map: { type: "object", additionalProperties: { type: "string" }, properties: { a: {} } },
  },
};

describe("a form out of a schema", () => {
  const field = fieldOf(SCHEMA, "input", "Input");
  const draft = draftOf(field) as Record<string, Draft>;

  it("knows each kind and leaves the rest to JSON", () => {
    expect(field.fields!.map((one) => one.kind)).toEqual(["string", "integer", "boolean", "enum", "array", "object", "json", "json"]);
    expect(fieldOf(true, "input", "Input").kind).toBe("json");
    expect(fieldOf({ type: "array", items: { type: "object" } }, "input", "Input").kind).toBe("json");
  });

  it("leaves out what need not be there and was not filled in", () => {
    expect(valueOf(field, { ...draft, name: "Ann", age: "7" })).toEqual({ value: { name: "Ann", age: 7, sure: false }, errors: {} });
  });

  it("keeps types, and an object once something of it is filled in", () => {
    const filled = valueOf(field, { ...draft, name: "Ann", age: "7", sure: true, region: "7", tags: ["a", ""], address: { city: "Ulm", no: "" }, odd: '{"x": [1]}' });
    expect(filled).toEqual({ value: { name: "Ann", age: 7, sure: true, region: 7, tags: ["a", ""], address: { city: "Ulm" }, odd: { x: [1] } }, errors: {} });
  });

  it("says what is wrong at its path", () => {
    const { errors } = valueOf(field, { ...draft, age: "7.5", odd: "{", address: { city: "Ulm", no: "x" } });
    expect(Object.keys(errors)).toEqual(["input.age", "input.address.no", "input.odd"]);
  });

  it("does not take a number that a browser cannot hold", () => {
    expect(valueOf(fieldOf({ type: "integer" }, "i", "I"), "9007199254740993").errors).toHaveProperty("i");
  });

  it("is filled in by its labels, and shows an error beside its field", () => {
    function Form() {
      const [now, setNow] = useState<Draft>(draft);
      return <><SchemaForm field={field} draft={now} errors={{ "input.address.city": "No such city." }} onChange={setNow} bare /><output>{JSON.stringify(valueOf(field, now).value)}</output></>;
    }
    const { container } = render(<Form />);
    fireEvent.change(screen.getByLabelText("name"), { target: { value: "<b>Ann</b>" } });
    fireEvent.change(screen.getByLabelText("age"), { target: { value: "40" } });
    fireEvent.click(screen.getByLabelText("sure"));
    expect(container.querySelector("output")!.textContent).toBe('{"name":"<b>Ann</b>","age":40,"sure":true}');
    const city = screen.getByLabelText("City");
    expect(city.getAttribute("aria-invalid")).toBe("true");
    expect(document.getElementById(city.getAttribute("aria-describedby")!)!.textContent).toBe("No such city.");
  });
});

describe("the editor", () => {
  it("says the line of a mistake, and goes there", () => {
    const text = '{\n  "a": 1,\n}';
    render(<JsonEditor label="Steps of a run" value={text} onChange={() => {}} located={locate(text)} />);
    const area = screen.getByLabelText<HTMLTextAreaElement>("Steps of a run");
    expect(area.getAttribute("aria-invalid")).toBe("true");
    fireEvent.click(screen.getByRole("button", { name: "Line 3, column 1" }));
    expect(area.selectionStart).toBe(text.length - 1);
  });
});
