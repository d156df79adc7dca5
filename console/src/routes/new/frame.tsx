import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { Play } from "lucide-react";
import { useRef, useState, type FormEvent, type ReactNode } from "react";
import { call, Problem } from "@/api/client";
import { Button } from "@/components/button";
import { Input, Select } from "@/components/field";
import { Failure } from "@/components/panel";
import type { Located } from "@/routes/new/locate";
import { budgetOf, Keys, NO_BUDGET, told, type BudgetDraft, type Told } from "@/routes/new/request";

const NOTHING: Told = { fields: {}, remarks: [], rest: false };

export interface Made {
  body: Record<string, unknown>;
  errors?: Record<string, string>;
  steps?: { located: Located; value: unknown };
}

interface Props {
  goal: string;
  onGoal: (goal: string) => void;
  /** What is to be started, made when it is sent; null: it cannot be sent as it stands. */
  make: () => Made | null;
  children: (told: Told) => ReactNode;
}

/** What all three ways share: the goal, the budget, sending it once, and what the server says of it. */
export function RunForm({ goal, onGoal, make, children }: Props) {
  const [budget, setBudget] = useState<BudgetDraft>(NO_BUDGET);
  const { busy, error, answer, send } = useStart();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const made = make();
    if (!made) return;
    const limits = budgetOf(budget);
    const body = { ...(goal.trim() ? { goal: goal.trim() } : {}), ...made.body, ...(limits.budget ? { budget: limits.budget } : {}) };
    send(body, { ...made.errors, ...limits.errors }, made.steps ?? null);
  };
  return (
    <form onSubmit={submit} noValidate className="flex flex-col gap-5">
      <div className="flex flex-col gap-5 rounded-lg border bg-panel p-4 md:p-6">
        <Input label="Goal (optional)" value={goal} maxLength={10_000} onChange={(event) => onGoal(event.target.value)} error={answer.fields.goal ?? null} hint="What the run is called wherever it is listed." />
        {children(answer)}
        <BudgetFields draft={budget} errors={answer.fields} onChange={setBudget} />
      </div>
      {error !== null && answer.rest && <Failure error={error} />}
      <div className="flex items-center gap-3">
        <Button type="submit" look="primary" busy={busy} icon={<Play className="size-4" aria-hidden />}>{busy ? "Starting …" : "Start the run"}</Button>
        {Object.keys(answer.fields).length + answer.remarks.length > 0 && <p role="status" className="text-bad">Something above has to be mended first.</p>}
      </div>
    </form>
  );
}

function useStart() {
  const navigate = useNavigate();
  const client = useQueryClient();
  const keys = useRef<Keys>(null);
  keys.current ??= new Keys();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [answer, setAnswer] = useState<Told>(NOTHING);
  const send = (body: Record<string, unknown>, errors: Record<string, string>, steps: NonNullable<Made["steps"]> | null) => {
    setError(null);
    setAnswer({ ...NOTHING, fields: errors });
    if (busy || Object.keys(errors).length) return;
    setBusy(true);
    const text = JSON.stringify(body);
    call<{ id: string }>("POST", "/runs", text, { "Idempotency-Key": keys.current!.of(text) })
      .then(({ id }) => {
        void client.invalidateQueries({ queryKey: ["runs"] });
        return navigate({ to: "/runs/$id", params: { id }, search: {} });
      })
      .catch((failure: unknown) => {
        setError(failure);
        setAnswer(failure instanceof Problem ? told(failure, steps) : { ...NOTHING, rest: true });
        setBusy(false);
      });
  };
  return { busy, error, answer, send };
}

function BudgetFields({ draft, errors, onChange }: { draft: BudgetDraft; errors: Readonly<Record<string, string>>; onChange: (draft: BudgetDraft) => void }) {
  const set = (name: keyof BudgetDraft) => (event: { target: { value: string } }) => onChange({ ...draft, [name]: event.target.value });
  return (
    <details className="border-t pt-4" open={Object.keys(errors).some((name) => name.startsWith("budget")) || undefined}>
      <summary className="w-fit cursor-pointer rounded-md font-medium">Budget <span className="font-normal text-soft">(optional)</span></summary>
      <div className="mt-3 grid grid-cols-2 gap-4 md:grid-cols-4">
        <Input label="Tokens" inputMode="numeric" placeholder="no limit" value={draft.tokens} onChange={set("tokens")} error={errors["budget.tokens"] ?? null} />
        <Input label="US dollars" inputMode="decimal" placeholder="no limit" value={draft.dollars} onChange={set("dollars")} error={errors["budget.microusd"] ?? null} />
        <Input label="Minutes" inputMode="decimal" placeholder="no limit" value={draft.minutes} onChange={set("minutes")} error={errors["budget.wall_clock_s"] ?? null} />
        <Select label="At a limit" value={draft.on_limit} onChange={set("on_limit")}>
          <option value="fail">the run fails</option>
          <option value="pause">the run is paused</option>
        </Select>
      </div>
      {errors.budget && <p role="alert" className="mt-2 text-[12.5px] text-bad">{errors.budget}</p>}
    </details>
  );
}
