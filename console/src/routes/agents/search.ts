import { useNavigate, useSearch } from "@tanstack/react-router";
import { useCallback } from "react";

export type SearchText = Record<string, string | undefined>;

/** What the address says after its `?`, as texts; and a way to change some of it. What is undefined or empty is left out. */
export function useSearchText(): [SearchText, (change: SearchText, options?: { push?: boolean }) => void] {
  const found = useSearch({ strict: false }) as Record<string, unknown>;
  const navigate = useNavigate();
  const change = useCallback(
    (given: SearchText, { push = false } = {}) => {
      const next = (before: Record<string, unknown>) =>
        Object.fromEntries(Object.entries({ ...before, ...given }).filter(([, value]) => value !== undefined && value !== ""));
      // What is typed into a filter is no place to go back to; a dialog that was opened is.
      void navigate({ to: ".", search: next as never, replace: !push });
    },
    [navigate],
  );
  return [texts(found), change];
}

function texts(found: Record<string, unknown>): SearchText {
  return Object.fromEntries(Object.entries(found).map(([name, value]) => [name, value === undefined ? undefined : String(value)]));
}
