import { useNavigate } from "@tanstack/react-router";
import { Plus, Trash2 } from "lucide-react";
import { useMemo, useState } from "react";
import { call } from "@/api/client";
import type { Run, Step } from "@/api/types";
import { Button, IconButton } from "@/components/button";
import { Dialog } from "@/components/dialog";
import { Select, TextArea } from "@/components/field";
import { Failure } from "@/components/panel";
import { FINAL } from "@/live/apply";
import { bodyOf, faults, madeAgain, replayable, type EditDraft, type ReplayDraft } from "@/routes/run/edits";

/** Make the run again from a step on, as it was or with something changed. */
export function ReplayDialog({ run, from, onClose }: { run: Run; from: string | null; onClose: () => void }) {
  const navigate = useNavigate();
  const steps = useMemo(() => replayable(run.steps), [run.steps]);
  const [draft, setDraft] = useState<ReplayDraft>({ from: from ?? steps[0]?.name ?? "", by: from ? "name" : "number", mode: "live", edits: [] });
  const [tried, setTried] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const wrong = faults(draft);
  const again = useMemo(() => madeAgain(draft, steps), [draft, steps]);
  const start = async () => {
    setTried(true);
    if (wrong.size) return;
    setBusy(true);
    setError(null);
    try {
      const { id } = await call<{ id: string }>("POST", `/runs/${run.id}/replay`, bodyOf(draft, steps));
      onClose();
      await navigate({ to: "/runs/$id", params: { id } });
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog open wide onClose={onClose} title="Replay" actions={<><Button onClick={onClose}>Close</Button><Button look="primary" busy={busy} onClick={() => void start()}>Start the replay</Button></>}>
      <div className="flex flex-col gap-5">
        <Mode draft={draft} ended={FINAL.has(run.status)} onChange={setDraft} />
        <From draft={draft} steps={steps} again={again} onChange={setDraft} />
        <Edits draft={draft} steps={steps} wrong={tried ? wrong : new Map()} onChange={setDraft} />
        {error !== null && <Failure error={error} />}
      </div>
    </Dialog>
  );
}

type Change = (draft: ReplayDraft) => void;

const MODES = [
  { mode: "live", title: "Live", text: "Models and tools are called again, people are asked again. For “what if?”." },
  { mode: "recorded", title: "From the record", text: "Nothing is called; a step that comes to something else fails. For “what went wrong?”." },
] as const;

function Mode({ draft, ended, onChange }: { draft: ReplayDraft; ended: boolean; onChange: Change }) {
  return (
    <fieldset className="grid gap-2 md:grid-cols-2">
      <legend className="mb-1 font-medium">How</legend>
      {MODES.map(({ mode, title, text }) => {
        const off = mode === "recorded" && !ended;
        return (
          <label key={mode} className={`flex gap-2.5 rounded-md border p-3 ${draft.mode === mode ? "border-accent bg-accent-soft" : "border-strong"} ${off ? "" : "cursor-pointer"}`}>
            <input type="radio" name="mode" className="mt-0.5 size-4 shrink-0 accent-accent" checked={draft.mode === mode} disabled={off} onChange={() => onChange({ ...draft, mode })} />
            <span><span className="font-medium">{title}</span><span className="block text-[12.5px] text-soft">{off ? "Once the run has ended: its record is not whole." : text}</span></span>
          </label>
        );
      })}
    </fieldset>
  );
}

function From({ draft, steps, again, onChange }: { draft: ReplayDraft; steps: readonly Step[]; again: ReadonlySet<string>; onChange: Change }) {
  return (
    <div className="grid gap-3 md:grid-cols-2">
      <Select label="From step" value={draft.from} onChange={(event) => onChange({ ...draft, from: event.target.value })}>
        {steps.map((step) => <option key={step.name} value={step.name}>{step.no}: {step.name}</option>)}
      </Select>
      <Select label="Make again" value={draft.by} onChange={(event) => onChange({ ...draft, by: event.target.value as ReplayDraft["by"] })}>
        <option value="name">it, and what follows from it</option>
        <option value="number">it, and every step with a higher number</option>
      </Select>
      <p className="text-[12.5px] text-soft md:col-span-2" role="status">{again.size === steps.length ? "All steps are made again." : `${again.size} of ${steps.length} steps are made again; the others are shared with this run.`}</p>
    </div>
  );
}

const shown = (step: Step | undefined, what: EditDraft["what"]) => JSON.stringify(step?.[what] ?? null, null, 2);

function Edits({ draft, steps, wrong, onChange }: { draft: ReplayDraft; steps: readonly Step[]; wrong: Map<number, string>; onChange: Change }) {
  const byName = new Map(steps.map((step) => [step.name, step]));
  const put = (index: number, edit: EditDraft) => onChange({ ...draft, edits: draft.edits.map((one, at) => (at === index ? edit : one)) });
  const choose = (index: number, step: string, what: EditDraft["what"]) => put(index, { step, what, text: shown(byName.get(step), what) });
  const add = () => onChange({ ...draft, edits: [...draft.edits, { step: draft.from, what: "input", text: shown(byName.get(draft.from), "input") }] });
  return (
    <div className="flex flex-col gap-3">
      <div className="flex items-center justify-between gap-3">
        <h3 className="font-medium">Changes</h3>
        <Button size="small" icon={<Plus className="size-3.5" aria-hidden />} disabled={!steps.length} onClick={add}>Change a step</Button>
      </div>
      {!draft.edits.length && <p className="text-[12.5px] text-soft">Nothing is changed. A changed input makes its step again; a changed output stands in its place.</p>}
      {draft.edits.map((edit, index) => (
        <div key={index} className="flex flex-col gap-2 rounded-md border p-3">
          <div className="flex items-end gap-2">
            <div className="min-w-0 flex-1"><Select label="Step" hideLabel value={edit.step} onChange={(event) => choose(index, event.target.value, edit.what)}>{steps.map((step) => <option key={step.name} value={step.name}>{step.name}</option>)}</Select></div>
            <div className="w-28"><Select label="What of it" hideLabel value={edit.what} onChange={(event) => choose(index, edit.step, event.target.value as EditDraft["what"])}><option value="input">input</option><option value="output">output</option></Select></div>
            <IconButton label={`Do not change the ${edit.what} of ${edit.step}`} onClick={() => onChange({ ...draft, edits: draft.edits.filter((_, at) => at !== index) })}><Trash2 className="size-4" aria-hidden /></IconButton>
          </div>
          <TextArea label={`New ${edit.what} of ${edit.step}`} hideLabel rows={6} spellCheck={false} className="font-mono text-[12.5px]" value={edit.text} error={wrong.get(index) ?? null} onChange={(event) => put(index, { ...edit, text: event.target.value })} />
        </div>
      ))}
    </div>
  );
}
