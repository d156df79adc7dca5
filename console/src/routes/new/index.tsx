import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { agentsQuery, graphsQuery } from "@/api/queries";
import { Heading } from "@/components/panel";
import { AgentForm } from "@/routes/new/agent-form";
import { GraphForm } from "@/routes/new/graph-form";
import { StepsForm } from "@/routes/new/steps-form";

type Mode = "graph" | "agent" | "steps";
const MODES: readonly { mode: Mode; label: string; text: string }[] = [
  { mode: "graph", label: "A graph", text: "Registered by a worker" },
  { mode: "agent", label: "An agent", text: "A model with tools" },
  { mode: "steps", label: "Steps", text: "Of your own, as JSON" },
];

export function NewRun() {
  const search = useSearch({ strict: false }) as { graph?: string; agent?: string };
  const navigate = useNavigate();
  const graphs = useQuery(graphsQuery);
  const agents = useQuery(agentsQuery);
  const [bare, setBare] = useState<Mode>("steps");
  const mode: Mode = search.graph ? "graph" : search.agent ? "agent" : bare;
  // Which graph or agent is in the address, so that a link leads to its form.
  const go = (next: Mode) => {
    const first = next === "graph" ? graphs.data?.items[0]?.name : next === "agent" ? agents.data?.items[0]?.name : undefined;
    setBare(next);
    void navigate({ to: "/new", search: first ? { [next]: first } : {}, replace: true });
  };
  return (
    <div className="mx-auto w-full max-w-4xl">
      <Heading title="New run" />
      <div role="group" aria-label="What to run" className="mb-6 grid grid-cols-3 gap-2 sm:gap-3">
        {MODES.map((one) => (
          <button key={one.mode} type="button" aria-pressed={mode === one.mode} onClick={() => go(one.mode)}
            className="rounded-lg border bg-panel px-3 py-2.5 text-left hover:border-strong aria-pressed:border-accent aria-pressed:bg-accent-soft/50 sm:px-4">
            <span className="block font-medium">{one.label}</span>
            <span className="hidden text-[12.5px] text-soft sm:block">{one.text}</span>
          </button>
        ))}
      </div>
      {mode === "graph" && <GraphForm name={search.graph} graphs={graphs} />}
      {mode === "agent" && <AgentForm name={search.agent} agents={agents} />}
      {mode === "steps" && <StepsForm />}
      <p className="mt-6 text-[12.5px] text-soft">
        The same by the API: <code className="font-mono">POST /runs</code>. <Link to="/graphs" className="text-accent underline">Graphs</Link> and <Link to="/agents" className="text-accent underline">agents</Link> have their own pages.
      </p>
    </div>
  );
}
