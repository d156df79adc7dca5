import { infiniteQueryOptions, useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useMemo, useState } from "react";
import { get, queryOf } from "@/api/client";
import type { Page, RunSummary } from "@/api/types";
import { apiFilter, type Search } from "@/routes/runs/filter";
import { heldBack, PAGE, pageOf, patched, type Pages } from "@/routes/runs/pages";

const REST_MS = 300;

const read = (search: Search, cursor: string | null, signal: AbortSignal) =>
  get<Page<RunSummary>>(`/runs${queryOf({ ...apiFilter(search, Date.now()), limit: PAGE, cursor })}`, signal);

const pagesQuery = (search: Search) =>
  infiniteQueryOptions({
    // Not under "runs": each event would have every page that was ever scrolled to read again.
    queryKey: ["run-pages", search],
    queryFn: ({ pageParam, signal }) => read(search, pageParam, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
    // Comparing 10,000 rows with what they were, for each page that comes, costs more than drawing the thirty in sight.
    structuralSharing: false, staleTime: Infinity, gcTime: 60_000,
  });

/** The runs that match, kept current at the top and where one looks; `news` are held back while one reads further down. */
export function useRuns(search: Search) {
  const client = useQueryClient();
  const list = useInfiniteQuery(pagesQuery(search));
  const [top, setTop] = useState(0);
  const looked = useResting(top);
  const [news, setNews] = useState(0);
  const reading = top > 3;
  const key = pagesQuery(search).queryKey;
  const found = list.data !== undefined;

  const take = useCallback((cursor: string | null, page: Page<RunSummary>, hold: boolean) => {
    const known = client.getQueryData<Pages<RunSummary>>(key);
    const index = known?.pageParams.indexOf(cursor) ?? -1;
    if (!known || index < 0) return;
    const held = index === 0 && hold ? heldBack(known, page) : { news: 0, page };
    if (index === 0) setNews(held.news);
    // Nothing but news: what is known is further down than this answer reaches.
    if ((held.page.items.length || !held.news) && !same(known.pages[index]!, held.page)) client.setQueryData<Pages<RunSummary>>(key, patched(known, index, held.page));
  }, [client, key]);

  const live = (cursor: string | null) => ({
    queryKey: ["runs", "live", search, cursor, reading && cursor === null] as const,
    queryFn: async ({ signal }: { signal: AbortSignal }) => {
      const page = await read(search, cursor, signal);
      take(cursor, page, reading);
      return Date.now();
    },
    staleTime: 2_000, gcTime: 0, initialData: 0, initialDataUpdatedAt: news ? 0 : list.dataUpdatedAt,
  });
  const cursor = list.data ? ((list.data.pageParams as (string | null)[])[pageOf(list.data.pages, looked)] ?? null) : null;
  const head = useQuery({ ...live(null), enabled: found });
  useQuery({ ...live(cursor), enabled: found && cursor !== null });

  const rows = useMemo(() => list.data?.pages.flatMap((page) => page.items) ?? [], [list.data]);
  const onTop = useCallback((index: number) => setTop(coarse(index)), []);
  return { rows, list, news: reading ? news : 0, onTop, error: list.error ?? head.error };
}

/** A scroll passes many rows in a frame; only whether one is at the top, and about where one is, is of interest here. */
const coarse = (index: number): number => (index <= 3 ? 0 : Math.max(4, Math.floor(index / 25) * 25));

const same = (one: Page<RunSummary>, other: Page<RunSummary>): boolean => JSON.stringify(one) === JSON.stringify(other);

/** A number once it has rested: what is only scrolled past is not asked for. */
function useResting(value: number): number {
  const [rested, setRested] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setRested(value), REST_MS);
    return () => clearTimeout(timer);
  }, [value]);
  return rested;
}
