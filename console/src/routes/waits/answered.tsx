import type { Wait } from "@/api/types";
import { Json } from "@/components/json";
import { Tag, type Tone } from "@/components/status";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { asked, decisionWord } from "@/routes/waits/asked";
import { Subject, WaitHead } from "@/routes/waits/card";

const TONES: Record<string, Tone> = { approved: "good", responded: "good", happened: "good", rejected: "bad", failed: "bad", expired: "bad" };

/** A wait that is over: who said what, and why; what it was about folds open. */
export function AnsweredCard({ wait }: { wait: Wait }) {
  const answer = (wait.answer ?? {}) as { decision?: string; by?: string | null; reason?: string | null; value?: unknown };
  const decision = answer.decision ?? wait.state;
  return (
    <article className="flex flex-col gap-2 px-4 py-3">
      <div className="flex flex-wrap items-center justify-between gap-2">
        <WaitHead wait={wait} />
        <span className="text-[12.5px] text-soft"><Time at={wait.answered_at} /></span>
      </div>
      <details className="group">
        <summary className="flex cursor-pointer flex-wrap items-center gap-x-3 gap-y-1 rounded-md">
          <span className="min-w-0 flex-1 font-medium break-words"><Plain text={asked(wait)} /></span>
          <Tag tone={TONES[decision] ?? "idle"}>{decisionWord(decision)}</Tag>
        </summary>
        <div className="mt-3 flex flex-col gap-3">
          <Subject wait={wait} />
          {answer.value !== null && answer.value !== undefined && <Json value={answer.value} label="Answer" />}
        </div>
      </details>
      <p className="text-[12.5px] break-words text-soft">
        {answer.by || wait.answered_by ? <>by <Plain text={answer.by ?? wait.answered_by ?? ""} /></> : "by nobody, in time"}
        {answer.reason && <>: <Plain text={answer.reason} /></>}
      </p>
    </article>
  );
}
