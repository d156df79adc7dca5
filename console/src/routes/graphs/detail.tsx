import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { Play } from "lucide-react";
import type { ReactNode } from "react";
import { graphQuery } from "@/api/queries";
import type { BudgetSpec, Graph } from "@/api/types";
import { buttonClass } from "@/components/button";
import { Json } from "@/components/json";
import { Empty, Fact, Facts, Failure, Heading, Panel, Skeleton } from "@/components/panel";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { meterName, meterValue } from "@/routes/agents/meters";
import { useSearchText } from "@/routes/agents/search";
import { Picture } from "@/routes/graphs/picture";
import { Steps } from "@/routes/graphs/steps";

// Beyond it a picture shows nothing that can be read; the list does.
const MOST_DRAWN = 200;

export function GraphScreen(): ReactNode {
  const { name } = useParams({ strict: false }) as { name: string };
  const { data: graph, error, refetch } = useQuery(graphQuery(name));
  const [search, change] = useSearchText();
  if (!graph) return <><Heading title={<Plain text={name} />} />{error ? <Failure error={error} retry={() => void refetch()} /> : <Skeleton rows={8} />}</>;
  const choose = (step: string) => change({ step: search.step === step ? undefined : step });
  return (
    <>
      <Heading title={<Plain text={graph.name} />} note={<>Version <code className="font-mono">{graph.version}</code>, registered <Time at={graph.registered_at} /></>}>
        <Link to="/runs" search={{ graph: graph.name }} className={buttonClass()}>Its runs</Link>
        <Link to="/new" search={{ graph: graph.name }} className={buttonClass("primary")}><Play className="size-4" aria-hidden />Start a run</Link>
      </Heading>
      {error && <div className="mb-4"><Failure error={error} retry={() => void refetch()} /></div>}
      <div className="flex flex-col gap-4">
        {graph.steps.length > 0 && graph.steps.length <= MOST_DRAWN && <Panel flush><Picture steps={graph.steps} chosen={search.step} onChoose={choose} /></Panel>}
        <div className="grid gap-4 lg:grid-cols-[minmax(0,1fr)_22rem] lg:items-start">
          {graph.steps.length ? <Steps steps={graph.steps} chosen={search.step} onChoose={choose} /> : <Panel><Empty title="It has no steps" /></Panel>}
          <Around graph={graph} />
        </div>
      </div>
    </>
  );
}

function Around({ graph }: { graph: Graph }) {
  return (
    <div className="flex min-w-0 flex-col gap-4">
      <Panel title="Each run may spend">
        {graph.budget?.length ? <Facts>{graph.budget.map((one) => <Most key={one.meter} limit={one} />)}</Facts> : <p className="text-soft">As much as it takes: the graph sets no limit.</p>}
      </Panel>
      <Panel title="Input">
        {graph.input_schema ? <Json value={graph.input_schema} label="Input schema" /> : <p className="text-soft">Anything: the graph has no schema of its input.</p>}
      </Panel>
    </div>
  );
}

function Most({ limit }: { limit: BudgetSpec }) {
  return <Fact name={meterName(limit.meter).replace(/^./, (first) => first.toUpperCase())}>at most {meterValue(limit.meter, limit.cap)}, then it {limit.on_limit === "pause" ? "pauses" : "fails"}</Fact>;
}
