import type { UseQueryResult } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import type { GraphSummary, Json } from "@/api/types";
import { Select } from "@/components/field";
import { Empty, Failure, Skeleton } from "@/components/panel";
import { JsonEditor } from "@/routes/new/editor";
import { RunForm } from "@/routes/new/frame";
import { locate } from "@/routes/new/locate";
import { draftOf, fieldOf, valueOf, type Draft } from "@/routes/new/schema";
import { SchemaForm } from "@/routes/new/schema-form";

interface Props {
  name: string | undefined;
  graphs: UseQueryResult<{ items: GraphSummary[] }>;
}

export function GraphForm({ name, graphs: { data, error, refetch } }: Props) {
  const navigate = useNavigate();
  if (error && !data) return <Failure error={error} retry={() => void refetch()} />;
  if (!data) return <Skeleton rows={5} />;
  if (!data.items.length && !name) {
    return <div className="rounded-lg border bg-panel"><Empty title="No graph is registered">A worker registers the graphs of the modules it imports: <code className="font-mono text-[12.5px]">durable-agent worker my_graphs</code></Empty></div>;
  }
  const graph = data.items.find((one) => one.name === name);
  return (
    <>
      <div className="mb-4">
        <Select label="Graph" value={name ?? ""} onChange={(event) => void navigate({ to: "/new", search: { graph: event.target.value }, replace: true })} error={name && !graph ? "No worker has registered a graph of this name." : null}>
          {!graph && <option value={name ?? ""}>{name ?? "Choose …"}</option>}
          {data.items.map((one) => <option key={one.name} value={one.name}>{one.name} ({one.steps} {one.steps === 1 ? "step" : "steps"})</option>)}
        </Select>
      </div>
      {graph && (graph.input_schema ? <Filled key={graph.name + graph.version} graph={graph} schema={graph.input_schema} /> : <Written key={graph.name} graph={graph} />)}
    </>
  );
}

/** The input as the graph's schema asks for it. */
function Filled({ graph, schema }: { graph: GraphSummary; schema: unknown }) {
  const field = useMemo(() => fieldOf(schema, "input", "Input"), [schema]);
  const [goal, setGoal] = useState("");
  const [draft, setDraft] = useState<Draft>(() => draftOf(field));
  const make = () => {
    const { value, errors } = valueOf(field, draft);
    return { body: { graph: graph.name, input: value ?? null }, errors };
  };
  return (
    <RunForm goal={goal} onGoal={setGoal} make={make}>
      {(answer) => (
        <section aria-label="Input" className="border-t pt-5">
          <SchemaForm field={field} draft={draft} errors={answer.fields} onChange={setDraft} bare />
          {field.kind !== "json" && <Elsewhere errors={answer.fields} draft={draft} />}
        </section>
      )}
    </RunForm>
  );
}

/** What the server says of a part of the input that has no field of its own is said all the same. */
function Elsewhere({ errors, draft }: { errors: Readonly<Record<string, string>>; draft: Draft }) {
  const shown = new Set(paths("input", draft));
  const rest = Object.entries(errors).filter(([path]) => path.startsWith("input") && !shown.has(path));
  return rest.map(([path, message]) => <p key={path} role="alert" className="mt-3 text-[12.5px] text-bad"><code className="font-mono">{path}</code>: {message}</p>);
}

function paths(path: string, draft: Draft): string[] {
  if (Array.isArray(draft)) return [path, ...draft.map((_, index) => `${path}.${index}`)];
  return typeof draft === "object" ? [path, ...Object.entries(draft).flatMap(([name, one]) => paths(`${path}.${name}`, one))] : [path];
}

/** A graph that says nothing of its input takes any. */
function Written({ graph }: { graph: GraphSummary }) {
  const [goal, setGoal] = useState("");
  const [text, setText] = useState("{\n  \n}");
  const located = useMemo(() => locate(text), [text]);
  const make = () => {
    if (located.mistake && text.trim()) return null;
    return { body: { graph: graph.name, input: text.trim() ? (JSON.parse(text) as Json) : null } };
  };
  return (
    <RunForm goal={goal} onGoal={setGoal} make={make}>
      {(answer) => (
        <JsonEditor label="Input" hint="JSON; this graph does not say what it takes." value={text} onChange={setText} located={located} rows={10}
          remarks={Object.entries(answer.fields).filter(([path]) => path.startsWith("input")).map(([path, message]) => ({ text: message, offset: located.at.get(path.replace(/^input\.?/, "")) ?? null }))} />
      )}
    </RunForm>
  );
}
