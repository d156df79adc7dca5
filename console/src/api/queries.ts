/** What can be asked, under which key it is kept, and how long it is good without being told. */
import { infiniteQueryOptions, queryOptions } from "@tanstack/react-query";
import { get, queryOf } from "@/api/client";
import type {
  Agent, Artifact, Budget, DeadLetters, Diff, Effect, Event, Explanation, Gate, Graph, GraphSummary, Health, Key, Model, Page,
  Run, RunSummary, Stats, ToolServer, Wait, Worker,
} from "@/api/types";

const PAGE = 100;

export interface RunFilter {
  status?: string[];
  graph?: string;
  agent?: string;
  q?: string;
  since?: string;
  until?: string;
}

export const runsQuery = (filter: RunFilter) =>
  infiniteQueryOptions({
    queryKey: ["runs", filter],
    queryFn: ({ pageParam, signal }) =>
      get<Page<RunSummary>>(`/runs${queryOf({ ...filter, limit: PAGE, cursor: pageParam })}`, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
  });

export const runQuery = (id: string) =>
  queryOptions({ queryKey: ["run", id], queryFn: ({ signal }) => get<Run>(`/runs/${id}`, signal) });

/** Filled by the run's socket, which starts at the first event: to ask for them is to keep what there is. */
export const eventsQuery = (id: string) =>
  queryOptions({
    queryKey: ["run", id, "events"], staleTime: Infinity, gcTime: 60_000, networkMode: "always",
    queryFn: ({ client, queryKey }): Event[] => client.getQueryData<Event[]>(queryKey) ?? [],
  });

export const explainQuery = (id: string) =>
  queryOptions({ queryKey: ["run", id, "explain"], queryFn: ({ signal }) => get<Explanation>(`/runs/${id}/explain`, signal) });

export const effectsQuery = (id: string, step: string) =>
  queryOptions({
    queryKey: ["run", id, "effects", step],
    queryFn: ({ signal }) => get<{ items: Effect[] }>(`/runs/${id}/effects${queryOf({ step })}`, signal),
  });

export const budgetQuery = (id: string) =>
  queryOptions({ queryKey: ["run", id, "budget"], queryFn: ({ signal }) => get<Budget>(`/runs/${id}/budget`, signal) });

export const artifactsQuery = (id: string) =>
  queryOptions({ queryKey: ["run", id, "artifacts"], queryFn: ({ signal }) => get<{ items: Artifact[] }>(`/runs/${id}/artifacts`, signal) });

export const diffQuery = (a: string, b: string) =>
  queryOptions({ queryKey: ["diff", a, b], queryFn: ({ signal }) => get<Diff>(`/runs/${a}/diff/${b}`, signal) });

export const waitsQuery = (given: { state?: string; run_id?: string } = { state: "open" }) =>
  queryOptions({ queryKey: ["waits", given], queryFn: ({ signal }) => get<Page<Wait>>(`/waits${queryOf({ ...given, limit: 200 })}`, signal) });

export const deadLettersQuery = (filter: { reason?: string; tool?: string }) =>
  infiniteQueryOptions({
    queryKey: ["dead-letters", filter],
    queryFn: ({ pageParam, signal }) =>
      get<DeadLetters>(`/dead-letters${queryOf({ ...filter, limit: PAGE, cursor: pageParam })}`, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => last.next_cursor,
  });

const listed = <T,>(key: string, path: string) =>
  queryOptions({ queryKey: [key], queryFn: ({ signal }) => get<{ items: T[] }>(path, signal) });

export const graphsQuery = listed<GraphSummary>("graphs", "/graphs");
export const agentsQuery = listed<Agent>("agents", "/agents");
export const serversQuery = listed<ToolServer>("tool-servers", "/tool-servers");
export const modelsQuery = listed<Model>("models", "/models");
export const gatesQuery = listed<Gate>("gates", "/gates");
export const keysQuery = listed<Key>("keys", "/keys");
export const workersQuery = queryOptions({ ...listed<Worker>("workers", "/workers"), refetchInterval: 5_000 });

export const graphQuery = (name: string) =>
  queryOptions({ queryKey: ["graphs", name], queryFn: ({ signal }) => get<Graph>(`/graphs/${encodeURIComponent(name)}`, signal) });

export const agentQuery = (id: string) =>
  queryOptions({ queryKey: ["agents", id], queryFn: ({ signal }) => get<Agent>(`/agents/${id}`, signal) });

export const serverQuery = (id: string) =>
  queryOptions({ queryKey: ["tool-servers", id], queryFn: ({ signal }) => get<ToolServer>(`/tool-servers/${id}`, signal) });

export const healthQuery = queryOptions({
  queryKey: ["healthz"], queryFn: ({ signal }) => get<Health>("/healthz", signal), refetchInterval: 5_000,
});

/** Figures of the last hour by the minute, or of the window that is asked for. */
export const statsQuery = (window_s: number) =>
  queryOptions({ queryKey: ["stats", window_s], queryFn: ({ signal }) => get<Stats>(`/stats${queryOf({ window_s })}`, signal), refetchInterval: 5_000 });
