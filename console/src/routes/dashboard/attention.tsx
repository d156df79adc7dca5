import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { CheckCircle2, ChevronRight, Hand, Skull, TriangleAlert } from "lucide-react";
import type { ReactNode } from "react";
import { healthQuery, waitsQuery } from "@/api/queries";
import type { Wait } from "@/api/types";
import { Failure, Panel } from "@/components/panel";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { count } from "@/lib/format";
import { stuckTexts } from "@/routes/dashboard/figures";
import { asked } from "@/routes/waits/asked";

const SHOWN = 4;

/** What does not go on without a person, before anything else. */
export function Attention() {
  const health = useQuery(healthQuery);
  const waits = useQuery(waitsQuery());
  const open = waits.data?.items ?? [];
  const people = Math.max(open.length, health.data?.waits_for_people ?? 0);
  const dead = health.data?.dead_letters ?? 0;
  const stuck = stuckTexts(health.data);
  const error = health.error ?? waits.error;
  if (error) return <Failure error={error} retry={() => { void health.refetch(); void waits.refetch(); }} />;
  if (!health.data || !waits.data) return <div role="status" aria-label="Loading" className="h-14 animate-pulse rounded-lg bg-raised" />;
  if (!people && !dead && !stuck.length) {
    return (
      <p className="flex items-center gap-2.5 rounded-lg border bg-panel px-4 py-3 text-soft">
        <CheckCircle2 className="size-4 text-good" aria-hidden />Nothing needs a person now.
      </p>
    );
  }
  return (
    <Panel title="Needs a person" flush>
      <ul className="divide-y">
        {stuck.map((text) => (
          <li key={text} className="flex items-start gap-3 px-4 py-3">
            <TriangleAlert className="mt-0.5 size-4 shrink-0 text-wait" aria-hidden />
            <span className="min-w-0 break-words"><span className="font-medium">Stuck: </span><Plain text={text} /></span>
          </li>
        ))}
        {open.slice(0, SHOWN).map((wait) => <li key={wait.id}><Asked wait={wait} /></li>)}
        {people > SHOWN && <li><Row to="/waits" icon={<Hand className="size-4 text-wait" aria-hidden />}>{count(people - SHOWN)} more wait for a person</Row></li>}
        {dead > 0 && (
          <li>
            <Row to="/dead-letters" icon={<Skull className="size-4 text-bad" aria-hidden />}>
              <span className="font-medium">{count(dead)} {dead === 1 ? "step" : "steps"} gave up</span>
              <span className="text-soft"> — mend the cause, then redrive</span>
            </Row>
          </li>
        )}
      </ul>
    </Panel>
  );
}

function Asked({ wait }: { wait: Wait }) {
  return (
    <Row to="/waits" hash={wait.id} icon={<Hand className="size-4 text-wait" aria-hidden />} end={<Time at={wait.opened_at} />}>
      <span className="font-medium"><Plain text={asked(wait)} /></span>
      <span className="text-soft"> — <Plain text={wait.goal ?? "run"} />, <Plain text={wait.step} /></span>
    </Row>
  );
}

function Row({ to, hash, icon, end, children }: { to: "/waits" | "/dead-letters"; hash?: string; icon: ReactNode; end?: ReactNode; children: ReactNode }) {
  return (
    <Link to={to} search={{}} {...(hash ? { hash } : {})} className="flex items-center gap-3 px-4 py-3 -outline-offset-2 hover:bg-raised/60">
      <span className="shrink-0">{icon}</span>
      <span className="line-clamp-2 min-w-0 flex-1 break-words">{children}</span>
      {end && <span className="shrink-0 text-[12.5px] text-soft">{end}</span>}
      <ChevronRight className="size-4 shrink-0 text-faint" aria-hidden />
    </Link>
  );
}
