import { Time, Took } from "@/components/time";
import { Tag, type Tone } from "@/components/status";
import { Plain } from "@/components/text";
import type { Attempt, Ending } from "@/routes/run/spans";

const HOW: Record<Ending, { tone: Tone; label: string }> = {
  running: { tone: "busy", label: "running" },
  succeeded: { tone: "good", label: "succeeded" },
  failed: { tone: "bad", label: "failed" },
  lease_lost: { tone: "bad", label: "lease lost" },
  released: { tone: "idle", label: "given back" },
  waiting: { tone: "wait", label: "waits" },
  cancelled: { tone: "idle", label: "cancelled" },
  dead_letter: { tone: "bad", label: "gave up" },
  compensated: { tone: "idle", label: "undone" },
};

const iso = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());

/** Each time a worker took the step: who, when, how it ended. The last one first. */
export function Attempts({ attempts }: { attempts: readonly Attempt[] }) {
  if (!attempts.length) return <p className="text-soft">No worker has taken it yet.</p>;
  return (
    <ol className="flex flex-col divide-y rounded-md border">
      {attempts.toReversed().map((one) => (
        <li key={one.claim} data-attempt={one.claim} className="flex flex-col gap-1 px-3 py-2">
          <div className="flex flex-wrap items-center gap-x-2 gap-y-1 text-[12.5px]">
            <span className="tabular w-5 text-soft" title={`claim ${one.claim}`}>{one.claim}</span>
            <span className="font-medium"><Plain text={one.worker ?? "unknown worker"} /></span>
            <Tag tone={HOW[one.how].tone}>{HOW[one.how].label}</Tag>
            <span className="ml-auto flex gap-2 text-soft"><Time at={iso(one.start)} as="clock" /><Took from={iso(one.start)} to={iso(one.end)} /></span>
          </div>
          {one.why && <p className={`pl-7 text-[12.5px] break-words ${HOW[one.how].tone === "bad" ? "text-bad" : "text-soft"}`}><Plain text={one.why} /></p>}
        </li>
      ))}
    </ol>
  );
}
