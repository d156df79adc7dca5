/** A long list kept current without being read again from its start: only what is in sight is asked for anew. */
import type { InfiniteData } from "@tanstack/react-query";
import type { Page } from "@/api/types";

export const PAGE = 100;

export type Pages<T> = InfiniteData<Page<T>, string | null>;
type Known = { id: string };

/**
 * Return the pages with what the server answered for the page `index`, asked with the cursor that page starts at.
 *
 * The answer says all there is between its first and last row: what was known in between and is not in it is gone.
 * Ids fall from row to row. An answer about the first page that does not reach what is known replaces everything.
 */
export function patched<T extends Known>(known: Pages<T>, index: number, fresh: Page<T>): Pages<T> {
  const { pages, pageParams } = known;
  const end = fresh.items.at(-1)?.id;
  if (fresh.next_cursor === null || end === undefined) {
    return { pages: [...pages.slice(0, index), { ...fresh, next_cursor: null }], pageParams: pageParams.slice(0, index + 1) };
  }
  const newest = pages[0]?.items[0]?.id;
  if (index === 0 && newest !== undefined && end > newest) return { pages: [fresh], pageParams: [null] };
  const made: Page<T>[] = [...pages.slice(0, index), fresh];
  const params = [...pageParams.slice(0, index + 1)];
  pages.slice(index).forEach((page, offset) => {
    const items = page.items.filter((row) => row.id < end);
    if (!items.length) return;
    const before = made.at(-1)!;
    const joins = offset > 0 && made.length > index + 1 && before.items.length + items.length <= PAGE;
    if (joins) made[made.length - 1] = { items: [...before.items, ...items], next_cursor: page.next_cursor };
    else {
      made.push({ items, next_cursor: page.next_cursor });
      params.push(before.next_cursor);
    }
  });
  return { pages: made, pageParams: params };
}

/** Split off what is newer than the first known row; it is held back while somebody reads further down. */
export function heldBack<T extends Known>(known: Pages<T>, fresh: Page<T>): { news: number; page: Page<T> } {
  const newest = known.pages[0]?.items[0]?.id;
  if (newest === undefined) return { news: 0, page: fresh };
  const items = fresh.items.filter((row) => row.id <= newest);
  return { news: fresh.items.length - items.length, page: { ...fresh, items } };
}

/** Which page a row is on. */
export function pageOf(pages: readonly Page<unknown>[], row: number): number {
  let rows = 0;
  for (const [index, page] of pages.entries()) {
    rows += page.items.length;
    if (row < rows) return index;
  }
  return Math.max(0, pages.length - 1);
}
