/** Lists that come in pages. */
interface Pages {
  data: { pages: readonly unknown[] } | undefined;
  isError: boolean;
  hasNextPage: boolean;
  fetchNextPage(options: { cancelRefetch: false }): Promise<Pages>;
}

/** Show a page more. Something happens all the time, and a list that is asked for anew meanwhile gives up the page that was asked for. */
export async function showMore(list: Pages): Promise<void> {
  const shown = list.data?.pages.length ?? 0;
  for (;;) {
    const now = await list.fetchNextPage({ cancelRefetch: false });
    if (now.isError || !now.hasNextPage || (now.data?.pages.length ?? 0) > shown) return;
  }
}
