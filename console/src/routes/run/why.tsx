import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { ChevronRight, CircleHelp, TriangleAlert } from "lucide-react";
import { useState } from "react";
import { explainQuery, waitsQuery } from "@/api/queries";
import type { Run } from "@/api/types";
import { Failure } from "@/components/panel";
import { Tag, type Tone } from "@/components/status";
import { Plain } from "@/components/text";
import { Answer } from "@/routes/run/answer";
import { grouped, type Group, type Weight } from "@/routes/run/reasons";

const TONE: Record<Weight, Tone> = { person: "wait", broken: "bad", wait: "idle", moving: "busy" };
const SHOWN = 3;

/** Why a run does not move, and what a person has to do about it: first, because nothing else moves before. */
export function Why({ run, onSelect }: { run: Run; onSelect: (step: string) => void }) {
  const explained = useQuery({ ...explainQuery(run.id), refetchInterval: 5_000 });
  const waits = useQuery(waitsQuery({ state: "open", run_id: run.id }));
  if (explained.error) return <Failure error={explained.error} retry={() => void explained.refetch()} />;
  if (!explained.data) return null;
  const open = waits.data?.items ?? [];
  const groups = grouped(explained.data.steps);
  const stuck = groups.filter((group) => group.weight === "broken");
  return (
    <section aria-label="Why it is not moving" className={`overflow-hidden rounded-lg border bg-panel ${open.length ? "border-wait/40" : stuck.length ? "border-bad/40" : ""}`}>
      {open.length > 0 && <div className="divide-y border-b">{open.map((wait) => <Answer key={wait.id} wait={wait} />)}</div>}
      <Reasons groups={groups} onSelect={onSelect} />
    </section>
  );
}

function Reasons({ groups, onSelect }: { groups: Group[]; onSelect: (step: string) => void }) {
  const still = groups.filter((group) => group.weight !== "moving");
  const [open, setOpen] = useState<boolean | null>(null);
  const shown = open ?? still.some((group) => group.weight === "broken" || group.weight === "wait" || group.reason === "paused" || group.reason === "budget");
  const Picture = still.some((group) => group.weight === "broken") ? TriangleAlert : CircleHelp;
  return (
    <>
      <h2>
        <button type="button" aria-expanded={shown} onClick={() => setOpen(!shown)} className="flex w-full flex-wrap items-center gap-x-2 gap-y-1 px-4 py-2 text-left hover:bg-raised">
          <Picture className={`size-4 ${Picture === TriangleAlert ? "text-bad" : "text-soft"}`} aria-hidden />
          <span className="font-medium">{still.length ? "Why it is not moving" : "What it is doing"}</span>
          {groups.map((group) => <Tag key={group.reason} tone={group.reason === "waits_for_steps" ? "idle" : TONE[group.weight]}>{group.steps.length} {group.label}</Tag>)}
          <ChevronRight className={`ml-auto size-4 text-soft transition-transform ${shown ? "rotate-90" : ""}`} aria-hidden />
        </button>
      </h2>
      {shown && <ul className="flex flex-col divide-y border-t">{groups.map((group) => <Reason key={group.reason} group={group} onSelect={onSelect} />)}</ul>}
    </>
  );
}

function Reason({ group, onSelect }: { group: Group; onSelect: (step: string) => void }) {
  const [all, setAll] = useState(false);
  const steps = all ? group.steps : group.steps.slice(0, SHOWN);
  return (
    <>
      {steps.map((one) => (
        <li key={`${one.reason}-${one.step}`} data-reason={one.reason} className="flex flex-wrap gap-x-3 gap-y-0.5 px-4 py-2 text-[12.5px] md:flex-nowrap">
          {one.step ? <button type="button" onClick={() => onSelect(one.step)} className="w-full shrink-0 truncate text-left font-medium hover:underline md:w-56"><Plain text={one.step} /></button> : null}
          <span className="min-w-0 break-words text-soft">
            <Plain text={one.text} />
            {typeof one.facts.run === "string" && <> <Link to="/runs/$id" params={{ id: one.facts.run }} className="text-accent underline">Open that run</Link></>}
          </span>
        </li>
      ))}
      {group.steps.length > SHOWN && (
        <li className="px-4 py-1.5"><button type="button" className="text-[12.5px] text-accent hover:underline" onClick={() => setAll(!all)}>{all ? "Fewer" : `${group.steps.length - SHOWN} more: ${group.label}`}</button></li>
      )}
    </>
  );
}
