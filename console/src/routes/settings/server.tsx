import { useQuery } from "@tanstack/react-query";
import { ExternalLink } from "lucide-react";
import { get } from "@/api/client";
import { healthQuery } from "@/api/queries";
import { Fact, Facts, Failure, Panel } from "@/components/panel";
import { Tag } from "@/components/status";
import { Plain } from "@/components/text";
import { apiUrl } from "@/lib/base";

interface Ready {
  status: string;
  database: string;
  schema: string;
}

const readyQuery = { queryKey: ["readyz"], queryFn: ({ signal }: { signal: AbortSignal }) => get<Ready>("/readyz", signal), refetchInterval: 15_000 } as const;
// The description of the API is the one place that says the server's version; it changes with a new server only.
const versionQuery = {
  queryKey: ["openapi", "version"], staleTime: Infinity,
  queryFn: async ({ signal }: { signal: AbortSignal }) => (await get<{ info: { version: string } }>("/openapi.json", signal)).info.version,
} as const;

export function Server() {
  const { data: ready, error, refetch } = useQuery(readyQuery);
  const { data: health } = useQuery(healthQuery);
  const { data: version } = useQuery(versionQuery);
  return (
    <Panel title="Server">
      {error && <div className="mb-3"><Failure error={error} retry={() => void refetch()} /></div>}
      <Facts>
        <Fact name="Version">{version ? <Plain text={version} /> : "…"}</Fact>
        <Fact name="Database">{ready ? <><Tag tone="good">{ready.database}</Tag> <span className="text-soft">schema {ready.schema}</span></> : error ? <Tag tone="bad">down</Tag> : "…"}</Fact>
        <Fact name="Live changes">{health ? <Tag tone={health.listener === "up" ? "good" : health.listener === "off" ? "idle" : "bad"}>{health.listener}</Tag> : "…"}</Fact>
        <Fact name="Its API">
          <a href={apiUrl("/openapi.json")} target="_blank" rel="noreferrer" className="inline-flex items-center gap-1 text-accent hover:underline">openapi.json<ExternalLink className="size-3.5" aria-hidden /></a>
        </Fact>
        <Fact name="Metrics">
          <a href={apiUrl("/metrics")} target="_blank" rel="noreferrer" className="inline-flex items-center gap-1 text-accent hover:underline">for Prometheus<ExternalLink className="size-3.5" aria-hidden /></a>
        </Fact>
      </Facts>
    </Panel>
  );
}
