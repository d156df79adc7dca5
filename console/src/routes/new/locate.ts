/** Where in a JSON text something stands: the first mistake by line and column, and each value by its path. */

export interface Mistake { message: string; offset: number; line: number; column: number }
export interface Located {
  mistake: Mistake | null;
  /** The offset of each value by its path: "steps.0.name". The whole is "". */
  at: ReadonlyMap<string, number>;
}

const MAX_DEPTH = 500;
const LITERALS = ["true", "false", "null"] as const;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SPACE = /[ \t\r\n]*/y;

class Wrong extends Error {
  constructor(message: string, readonly offset: number) {
    super(message);
  }
}

/** What browsers say of a mistake differs, and some do not say where; this says it the same everywhere. */
export function locate(text: string): Located {
  const reader = new Reader(text);
  try {
    reader.document();
    return { mistake: null, at: reader.at };
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    return { mistake: { message: error.message, offset: error.offset, ...lineOf(text, error.offset) }, at: reader.at };
  }
}

/** The line and column of an offset, both counted from 1. */
export function lineOf(text: string, offset: number): { line: number; column: number } {
  const before = text.slice(0, offset);
  const line = before.split("\n").length;
  return { line, column: offset - before.lastIndexOf("\n") };
}

class Reader {
  readonly at = new Map<string, number>();
  private pos = 0;

  constructor(private readonly text: string) {}

  document(): void {
    this.space();
    if (this.pos === this.text.length) throw new Wrong("There is nothing yet.", this.pos);
    this.value("", 0);
    this.space();
    if (this.pos < this.text.length) throw new Wrong("Something stands behind the end.", this.pos);
  }

  private value(path: string, depth: number): void {
    if (depth > MAX_DEPTH) throw new Wrong("This is nested too deep.", this.pos);
    this.at.set(path, this.pos);
    const char = this.text[this.pos];
    if (char === "{") this.object(path, depth);
    else if (char === "[") this.array(path, depth);
    else if (char === '"') this.string();
    else if (char !== undefined && /[-\d]/.test(char)) this.match(NUMBER, "This is no number.");
    else this.literal();
  }

  private object(path: string, depth: number): void {
    const names = new Set<string>();
    this.list("}", () => {
      const start = this.pos;
      if (this.text[start] !== '"') throw new Wrong(this.text[start] === "}" ? "A comma stands before the end." : "A name in double quotes is expected.", start);
      const name = JSON.parse(this.string()) as string;
      if (names.has(name)) throw new Wrong(`The name “${name}” stands twice.`, start);
      names.add(name);
      this.space();
      if (this.text[this.pos] !== ":") throw new Wrong("A colon is expected.", this.pos);
      this.pos += 1;
      this.space();
      this.value(path ? `${path}.${name}` : name, depth + 1);
    });
  }

  private array(path: string, depth: number): void {
    let index = 0;
    this.list("]", () => {
      if (this.text[this.pos] === "]") throw new Wrong("A comma stands before the end.", this.pos);
      this.value(path ? `${path}.${index}` : String(index), depth + 1);
      index += 1;
    });
  }

  /** Read what stands between brackets, the opening one of which is here. */
  private list(end: string, one: () => void): void {
    this.pos += 1;
    this.space();
    if (this.text[this.pos] === end) {
      this.pos += 1;
      return;
    }
    for (;;) {
      one();
      this.space();
      const char = this.text[this.pos];
      if (char === undefined) throw new Wrong(`It ends before “${end}”.`, this.pos);
      if (char !== "," && char !== end) throw new Wrong(`A comma or “${end}” is expected.`, this.pos);
      this.pos += 1;
      if (char === end) return;
      this.space();
    }
  }

  private string(): string {
    return this.match(STRING, "This text has no end, or a character in it that has to be escaped.");
  }

  private literal(): void {
    const found = LITERALS.find((word) => this.text.startsWith(word, this.pos));
    if (!found) throw new Wrong(this.pos >= this.text.length ? "It ends before a value." : "A value is expected.", this.pos);
    this.pos += found.length;
  }

  private match(pattern: RegExp, otherwise: string): string {
    pattern.lastIndex = this.pos;
    const found = pattern.exec(this.text)?.[0];
    if (found === undefined) throw new Wrong(otherwise, this.pos);
    this.pos += found.length;
    return found;
  }

  private space(): void {
    SPACE.lastIndex = this.pos;
    this.pos += SPACE.exec(this.text)?.[0].length ?? 0;
  }
}
