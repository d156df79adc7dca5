import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Link, useRouterState, useSearch } from "@tanstack/react-router";
import { useEffect, useMemo, useState } from "react";
import { get, queryOf } from "@/api/client";
import { waitsQuery } from "@/api/queries";
import type { Page, Wait } from "@/api/types";
import { Button } from "@/components/button";
import { Empty, Failure, Heading, Skeleton } from "@/components/panel";
import { showMore } from "@/lib/pages";
import { AnsweredCard } from "@/routes/waits/answered";
import { OpenCard, SettledCard, type Settled } from "@/routes/waits/card";

const TABS = [
  { state: "open", label: "Open" },
  { state: "answered", label: "Answered" },
] as const;

export function Waits() {
  const search = useSearch({ strict: false }) as { state?: string };
  const state = search.state === "answered" ? "answered" : "open";
  return (
    <div className="mx-auto w-full max-w-4xl">
      <Heading title="Waits" note="What runs ask of people, the oldest first." />
      <nav aria-label="Waits" className="mb-4 flex gap-4 border-b">
        {TABS.map((tab) => (
          <Link key={tab.state} to="/waits" search={tab.state === "open" ? {} : { state: tab.state }} aria-current={tab.state === state ? "page" : undefined}
            className="-mb-px border-b-2 border-transparent px-1 pb-2 text-soft hover:text-ink aria-[current=page]:border-accent aria-[current=page]:font-medium aria-[current=page]:text-accent">
            {tab.label}
          </Link>
        ))}
      </nav>
      {state === "open" ? <OpenWaits /> : <AnsweredWaits />}
    </div>
  );
}

function OpenWaits() {
  const { data, error, refetch } = useQuery(waitsQuery());
  const [settled, setSettled] = useState<ReadonlyMap<string, Settled>>(new Map());
  const [touched, setTouched] = useState<ReadonlyMap<string, Wait>>(new Map());
  const cards = useMemo(() => merged(data?.items ?? [], settled, touched), [data, settled, touched]);
  useAnchor(data !== undefined);
  if (error && !data) return <Failure error={error} retry={() => void refetch()} />;
  if (!data) return <Skeleton rows={6} />;
  if (!cards.length) return <div className="rounded-lg border bg-panel"><Empty title="Nobody is asked anything">Approvals, questions and calls that nobody heard the end of appear here the moment a run asks.</Empty></div>;
  const settle = (one: Settled) => setSettled((before) => new Map(before).set(one.wait.id, one));
  const touch = (wait: Wait) => setTouched((before) => (before.has(wait.id) ? before : new Map(before).set(wait.id, wait)));
  return (
    <>
      {error && <div className="mb-3"><Failure error={error} retry={() => void refetch()} /></div>}
      <ul className="flex flex-col gap-4">
        {cards.map((card) => (
          <li key={card.wait.id} id={card.wait.id} className="scroll-mt-4">
            {"outcome" in card ? <SettledCard settled={card} /> : <OpenCard wait={card.wait} onSettled={settle} onTouch={() => touch(card.wait)} />}
          </li>
        ))}
      </ul>
      {data.next_cursor && <p className="mt-4 text-center text-soft">These are the oldest {data.items.length}. More appear as they are answered.</p>}
    </>
  );
}

/**
 * The open waits with what became of those that were open a moment ago, in their order: a card that somebody works at
 * does not vanish under the hands when another is faster, and an answer given here leaves its trace.
 */
export function merged(open: readonly Wait[], settled: ReadonlyMap<string, Settled>, touched: ReadonlyMap<string, Wait>): ({ wait: Wait } | Settled)[] {
  const cards = new Map<string, { wait: Wait } | Settled>();
  for (const wait of touched.values()) cards.set(wait.id, { wait, outcome: "elsewhere", winner: null });
  for (const wait of open) cards.set(wait.id, { wait });
  for (const one of settled.values()) cards.set(one.wait.id, one);
  return [...cards.values()].sort((a, b) => (a.wait.id < b.wait.id ? -1 : 1));
}

/** Go to the wait that the address names, once it is there. */
function useAnchor(ready: boolean): void {
  const hash = useRouterState({ select: (state) => state.location.hash });
  useEffect(() => {
    if (ready && hash) document.getElementById(hash)?.scrollIntoView({ block: "start" });
  }, [ready, hash]);
}

function AnsweredWaits() {
  const list = useInfiniteQuery({
    queryKey: ["waits", "answered", "pages"],
    queryFn: ({ pageParam, signal }) => get<Page<Wait>>(`/waits${queryOf({ state: "answered", limit: 50, cursor: pageParam })}`, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
  });
  const waits = list.data?.pages.flatMap((page) => page.items) ?? [];
  if (list.error && !list.data) return <Failure error={list.error} retry={() => void list.refetch()} />;
  if (list.isPending) return <Skeleton rows={6} />;
  if (!waits.length) return <div className="rounded-lg border bg-panel"><Empty title="Nothing was answered yet">Who answered what, when and why is kept here.</Empty></div>;
  return (
    <>
      <ul className="divide-y rounded-lg border bg-panel">{waits.map((wait) => <li key={wait.id}><AnsweredCard wait={wait} /></li>)}</ul>
      {list.hasNextPage && <div className="mt-4 text-center"><Button busy={list.isFetchingNextPage} onClick={() => void showMore(list)}>Show more</Button></div>}
    </>
  );
}
