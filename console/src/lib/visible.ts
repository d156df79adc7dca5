/**
 * Characters that hide or reorder what stands beside them: controls, bidi marks, zero-width and tag characters.
 * Source of the list: Unicode 17 general categories Cc and Cf, and the "Trojan Source" paper (Boucher, Anderson 2021).
 */
const HIDDEN = /[\p{Cc}\p{Cf}\u2028\u2029\u{e0000}-\u{e007f}]/u;

export interface Piece {
  text: string;
  hidden: boolean;
}

/** Split a text so that what cannot be seen can be shown by its code point; tabs and line ends stay as they are. */
export function pieces(text: string): Piece[] {
  const found: Piece[] = [];
  let plain = "";
  for (const char of text) {
    if (char === "\n" || char === "\t" || !HIDDEN.test(char)) {
      plain += char;
      continue;
    }
    if (plain) found.push({ text: plain, hidden: false });
    plain = "";
    found.push({ text: `U+${char.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}`, hidden: true });
  }
  if (plain) found.push({ text: plain, hidden: false });
  return found;
}
