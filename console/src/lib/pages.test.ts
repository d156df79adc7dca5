import { InfiniteQueryObserver, QueryClient } from "@tanstack/react-query";
import { expect, it } from "vitest";
import { showMore } from "@/lib/pages";

it("shows a page more, though the list is asked for anew meanwhile", async () => {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  const asked: { page: number; answer: () => void }[] = [];
  const observer = new InfiniteQueryObserver(client, {
    queryKey: ["list"],
    queryFn: ({ pageParam, signal }) =>
      new Promise<number>((answer, refuse) => {
        signal.addEventListener("abort", () => refuse(signal.reason));
        asked.push({ page: pageParam, answer: () => answer(pageParam) });
      }),
    initialPageParam: 0,
    getNextPageParam: (last) => last + 1,
  });
  const nextAsked = async (page: number) => {
    await expect.poll(() => asked.at(-1)?.page).toBe(page);
    asked.at(-1)!.answer();
  };
  const stop = observer.subscribe(() => {});
  await nextAsked(0);
  await expect.poll(() => observer.getCurrentResult().data?.pages).toEqual([0]);

  const shown = showMore(observer.getCurrentResult());
  await expect.poll(() => asked.at(-1)?.page).toBe(1);
  void client.invalidateQueries({ queryKey: ["list"] });
  await nextAsked(0);
  await nextAsked(1);
  await shown;
  expect(observer.getCurrentResult().data?.pages).toEqual([0, 1]);
  stop();
});
