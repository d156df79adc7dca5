import type { UseQueryResult } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import type { Agent } from "@/api/types";
import { buttonClass } from "@/components/button";
import { Checkbox, Select, TextArea } from "@/components/field";
import { Empty, Failure, Skeleton } from "@/components/panel";
import { RunForm } from "@/routes/new/frame";
import { locate } from "@/routes/new/locate";

interface Props {
  name: string | undefined;
  agents: UseQueryResult<{ items: Agent[] }>;
}

export function AgentForm({ name, agents: { data, error, refetch } }: Props) {
  const navigate = useNavigate();
  const [goal, setGoal] = useState("");
  const [text, setText] = useState("");
  const [json, setJson] = useState(false);
  const [wrong, setWrong] = useState<string | null>(null);
  if (error && !data) return <Failure error={error} retry={() => void refetch()} />;
  if (!data) return <Skeleton rows={5} />;
  if (!data.items.length && !name) {
    return <div className="rounded-lg border bg-panel"><Empty title="There is no agent yet"><p className="mb-3">An agent is a model with instructions and tools.</p><Link to="/agents" className={buttonClass("primary")}>Go to agents</Link></Empty></div>;
  }
  const agent = data.items.find((one) => one.name === name);
  const make = () => {
    const { mistake } = json ? locate(text) : { mistake: text.trim() ? null : { message: "Say what it is to do.", line: 0, column: 0 } };
    setWrong(mistake ? (mistake.line ? `Line ${mistake.line}, column ${mistake.column}: ${mistake.message}` : mistake.message) : null);
    return mistake ? null : { body: { agent: agent?.name ?? name, input: json ? (JSON.parse(text) as unknown) : text } };
  };
  return (
    <RunForm goal={goal} onGoal={setGoal} make={make}>
      {(answer) => (
        <>
          <Select label="Agent" value={name ?? ""} error={answer.fields.agent ?? (name && !agent ? "There is no agent of this name." : null)} onChange={(event) => void navigate({ to: "/new", search: { agent: event.target.value }, replace: true })}>
            {!agent && <option value={name ?? ""}>{name ?? "Choose …"}</option>}
            {data.items.map((one) => <option key={one.id} value={one.name}>{one.name}{one.model ? ` (${one.model})` : ""}</option>)}
          </Select>
          <TextArea label="Input" rows={7} value={text} onChange={(event) => setText(event.target.value)} error={wrong ?? answer.fields.input ?? null} spellCheck={!json}
            className={json ? "font-mono text-[12.5px]" : ""} placeholder={json ? '{"question": "…"}' : "What is the agent to do?"} />
          <div className="-mt-3"><Checkbox label="This is JSON" checked={json} onChange={(event) => setJson(event.target.checked)} /></div>
        </>
      )}
    </RunForm>
  );
}
