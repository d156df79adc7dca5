import { useQueryClient } from "@tanstack/react-query";
import { Check, X } from "lucide-react";
import { useMemo, useState, type FormEvent, type ReactNode } from "react";
import { call, Problem } from "@/api/client";
import type { Json, Wait } from "@/api/types";
import { Button } from "@/components/button";
import { Input, TextArea } from "@/components/field";
import { Failure } from "@/components/panel";
import { draftOf, fieldOf, valueOf, type Draft } from "@/routes/new/schema";
import { SchemaForm } from "@/routes/new/schema-form";
import { choicesOf, winnerOf } from "@/routes/waits/asked";
import type { Settled } from "@/routes/waits/card";

interface Props {
  wait: Wait;
  onSettled: (settled: Settled) => void;
}

export function AnswerForm(props: Props) {
  const answer = useAnswer(props);
  switch (props.wait.kind) {
    case "approval":
      return <Approve answer={answer} />;
    case "unknown_effect":
      return <Settle answer={answer} />;
    default:
      return <Respond answer={answer} wait={props.wait} />;
  }
}

type Verb = "approve" | "reject" | "respond" | "settle";
interface Answer {
  busy: boolean;
  error: unknown;
  give: (verb: Verb, body: Record<string, unknown>) => void;
}

/** Send an answer; that somebody else was faster is an outcome and no error. */
function useAnswer({ wait, onSettled }: Props): Answer {
  const client = useQueryClient();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const give = (verb: Verb, body: Record<string, unknown>) => {
    setBusy(true);
    setError(null);
    call<{ decision: string; by: string | null }>("POST", `/waits/${wait.id}/${verb}`, body)
      .then((done) => onSettled({ wait, outcome: "here", winner: { decision: done.decision, by: done.by, reason: typeof body.reason === "string" ? body.reason : null } }))
      .catch((failure: unknown) => {
        if (failure instanceof Problem && failure.status === 409) onSettled({ wait, outcome: "elsewhere", winner: winnerOf(failure.body) });
        else setError(failure);
      })
      .finally(() => {
        setBusy(false);
        void client.invalidateQueries({ predicate: ({ queryKey }) => ["waits", "healthz", "runs", "stats"].includes(String(queryKey[0])) });
      });
  };
  return { busy, error, give };
}

const said = (reason: string) => (reason.trim() ? { reason: reason.trim() } : {});

function Approve({ answer }: { answer: Answer }) {
  const [reason, setReason] = useState("");
  return (
    <div className="flex flex-col gap-3">
      <Input label="Reason (optional)" placeholder="Recorded with the decision" value={reason} onChange={(event) => setReason(event.target.value)} maxLength={2000} />
      {answer.error !== null && <Failure error={answer.error} />}
      <div className="flex flex-wrap gap-2">
        <Button look="primary" busy={answer.busy} icon={<Check className="size-4" aria-hidden />} onClick={() => answer.give("approve", said(reason))}>Approve</Button>
        <Button look="danger" busy={answer.busy} icon={<X className="size-4" aria-hidden />} onClick={() => answer.give("reject", said(reason))}>Reject</Button>
      </div>
    </div>
  );
}

function Respond({ answer, wait }: { answer: Answer; wait: Wait }) {
  const schema = (wait.request as { schema?: unknown }).schema;
  const choices = choicesOf(schema);
  const [reason, setReason] = useState("");
  const decline = <Button look="quiet" busy={answer.busy} onClick={() => answer.give("reject", said(reason))}>Decline</Button>;
  const why = <Input label="Reason (optional)" placeholder="Recorded with the answer" value={reason} onChange={(event) => setReason(event.target.value)} maxLength={2000} />;
  return (
    <div className="flex flex-col gap-3">
      {choices ? (
        <div role="group" aria-label="Answer" className="flex flex-wrap gap-2">
          {choices.map((choice) => (
            <Button key={JSON.stringify(choice)} busy={answer.busy} onClick={() => answer.give("respond", { value: choice, ...said(reason) })}>{typeof choice === "boolean" ? (choice ? "Yes" : "No") : String(choice)}</Button>
          ))}
        </div>
      ) : (
        <Value schema={schema} answer={answer} reason={reason} why={why} aside={decline} />
      )}
      {choices && why}
      {answer.error !== null && <Failure error={answer.error} />}
      {choices && <div>{decline}</div>}
    </div>
  );
}

/** The answer as the question's schema wants it; without one, as it is written. */
function Value({ schema, answer, reason, why, aside }: { schema: unknown; answer: Answer; reason: string; why: ReactNode; aside: ReactNode }) {
  const field = useMemo(() => (schema ? fieldOf(schema, "value", "Answer") : { ...fieldOf({ type: "string" }, "value", "Answer"), long: true }), [schema]);
  const [draft, setDraft] = useState<Draft>(() => draftOf(field));
  const [errors, setErrors] = useState<Record<string, string>>({});
  const send = (event: FormEvent) => {
    event.preventDefault();
    const filled = valueOf(field, draft);
    setErrors(filled.errors);
    if (!Object.keys(filled.errors).length) answer.give("respond", { value: filled.value ?? null, ...said(reason) });
  };
  return (
    <form onSubmit={send} noValidate className="flex flex-col gap-3">
      <SchemaForm field={field} draft={draft} errors={errors} onChange={setDraft} bare />
      {why}
      <div className="flex flex-wrap gap-2"><Button type="submit" look="primary" busy={answer.busy}>Answer</Button>{aside}</div>
    </form>
  );
}

const OUTCOMES = [
  { outcome: "happened", label: "It happened", text: "The step goes on with the result you give." },
  { outcome: "send_again", label: "Send it again", text: "It did not happen: the same call is made again, with the same key." },
  { outcome: "fail", label: "Count it as failed", text: "The step fails and is not tried again." },
] as const;

function Settle({ answer }: { answer: Answer }) {
  const [outcome, setOutcome] = useState<(typeof OUTCOMES)[number]["outcome"] | null>(null);
  const [result, setResult] = useState("");
  const [reason, setReason] = useState("");
  const [wrong, setWrong] = useState<string | null>(null);
  const send = (event: FormEvent) => {
    event.preventDefault();
    const read = outcome === "happened" ? parsed(result) : { value: undefined };
    setWrong("error" in read ? read.error : null);
    if (!("error" in read)) answer.give("settle", { outcome, ...(read.value === undefined ? {} : { result: read.value }), ...said(reason) });
  };
  return (
    <form onSubmit={send} className="flex flex-col gap-3">
      <fieldset className="flex flex-col gap-2">
        <legend className="mb-1 font-medium">What became of the call?</legend>
        {OUTCOMES.map((one) => (
          <label key={one.outcome} className="flex cursor-pointer items-start gap-2.5 rounded-md border bg-panel px-3 py-2 has-checked:border-accent has-checked:bg-accent-soft/40">
            <input type="radio" name="outcome" checked={outcome === one.outcome} onChange={() => setOutcome(one.outcome)} className="mt-0.5 size-4 accent-accent" />
            <span><span className="font-medium">{one.label}</span><span className="block text-[12.5px] text-soft">{one.text}</span></span>
          </label>
        ))}
      </fieldset>
      {outcome === "happened" && <TextArea label="Result (optional)" hint="JSON; what the call returned." error={wrong} value={result} rows={3} spellCheck={false} className="font-mono text-[12.5px]" onChange={(event) => setResult(event.target.value)} />}
      <Input label="Reason (optional)" placeholder="How you know" value={reason} onChange={(event) => setReason(event.target.value)} maxLength={2000} />
      {answer.error !== null && <Failure error={answer.error} />}
      <div><Button type="submit" look="primary" disabled={!outcome} busy={answer.busy}>Settle</Button></div>
    </form>
  );
}

function parsed(text: string): { value: Json | undefined } | { error: string } {
  if (!text.trim()) return { value: undefined };
  try {
    return { value: JSON.parse(text) as Json };
  } catch {
    return { error: "This is no JSON." };
  }
}
