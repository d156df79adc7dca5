import { Skull, TriangleAlert, X } from "lucide-react";
import { memo, type CSSProperties, type ReactNode } from "react";
import { Plain } from "@/components/text";
import { duration } from "@/lib/format";
import type { Attempt, Ending, Gap, GapKind, Track } from "@/routes/run/spans";
import { place, type Range } from "@/routes/run/timeline/scale";

const BAR: Record<Ending, string> = {
  running: "bg-busy-soft border-busy text-busy",
  succeeded: "bg-good-soft border-good text-good",
  failed: "bg-bad-soft border-bad text-bad",
  dead_letter: "bg-bad-soft border-bad text-bad",
  lease_lost: "bg-bad-soft border-bad border-dashed text-bad",
  released: "bg-idle-soft border-idle text-idle",
  waiting: "bg-wait-soft border-wait text-wait",
  cancelled: "bg-idle-soft border-idle text-idle",
  compensated: "bg-idle-soft border-idle text-idle",
};

const GAP: Record<GapKind, { line: string; text: string }> = {
  queued: { line: "border-strong border-dotted", text: "ready, not claimed" },
  backoff: { line: "border-bad border-dashed", text: "waits before the next attempt" },
  lost: { line: "border-bad border-double", text: "nobody has it: its worker is gone" },
  given_back: { line: "border-strong border-dashed", text: "given back" },
  wait: { line: "border-wait", text: "waits" },
  redriven: { line: "border-strong border-dotted", text: "redriven" },
};

/** A worker that died leaves a bar that is torn, not one that is full. */
const TORN: CSSProperties = {
  backgroundImage: "repeating-linear-gradient(135deg, transparent 0 5px, color-mix(in srgb, var(--bad) 22%, transparent) 5px 10px)",
};

/** What a step did within the window. Positions are percentages: a wider screen needs no new drawing. */
export const Bars = memo(function Bars({ track, seen, edge }: { track: Track; seen: Range; edge: number }) {
  return (
    <>
      {track.gaps.map((gap, index) => <GapLine key={`g${index}`} gap={gap} seen={seen} edge={edge} />)}
      {track.attempts.map((one) => <Bar key={`a${one.claim}`} attempt={one} seen={seen} edge={edge} />)}
      {track.ended && track.attempts.length === 0 && <Ended at={track.ended.at} how={track.ended.how} seen={seen} />}
    </>
  );
});

function GapLine({ gap, seen, edge }: { gap: Gap; seen: Range; edge: number }) {
  const end = gap.end ?? edge;
  if (end <= gap.start) return null;
  const at = place(gap.start, end, seen);
  if (!at) return null;
  const { line, text } = GAP[gap.kind];
  const title = `${text}${gap.kind === "wait" && gap.what ? ` for ${gap.what}` : ""}: ${duration((end - gap.start) / 1000)}`;
  if (gap.kind === "wait") {
    return (
      <div data-gap="wait" title={title} className="@container absolute top-2 flex h-4 items-center overflow-hidden rounded-sm bg-wait-soft text-[11px] text-wait opacity-80" style={span(at)}>
        <Roomy>waits{gap.what ? ` for ${gap.what}` : ""}</Roomy>
      </div>
    );
  }
  return <div data-gap={gap.kind} title={title} className={`absolute top-1/2 -mt-px border-t-2 ${line}`} style={span(at)} />;
}

function Bar({ attempt, seen, edge }: { attempt: Attempt; seen: Range; edge: number }) {
  const end = attempt.end ?? Math.max(edge, attempt.start);
  const at = place(attempt.start, end, seen);
  if (!at) return null;
  const lost = attempt.how === "lease_lost";
  const bad = attempt.how === "failed" || attempt.how === "dead_letter";
  const Mark = lost ? Skull : attempt.how === "dead_letter" ? TriangleAlert : X;
  return (
    <>
      <div
        data-bar={attempt.how}
        title={titleOf(attempt, end)}
        className={`@container absolute top-1 flex h-6 min-w-[3px] items-center overflow-hidden rounded-[4px] border text-[11px] leading-none ${BAR[attempt.how]} ${attempt.how === "running" ? "border-r-0 rounded-r-none" : ""}`}
        style={{ ...span(at), ...(lost ? TORN : {}) }}
      >
        {attempt.calls.map((call) => <CallLine key={`${call.no}-${call.start}`} start={call.start} end={call.end ?? end} bar={[attempt.start, end]} />)}
        <Roomy>{attempt.worker && <Plain text={attempt.worker} />}</Roomy>
      </div>
      {(lost || bad) && attempt.end !== null && attempt.end >= seen[0] && attempt.end <= seen[1] && (
        <div
          data-mark={attempt.how}
          title={lost ? `${attempt.worker ?? "the worker"} lost its lease (${attempt.why ?? "unknown"})` : (attempt.why ?? "failed")}
          className="absolute top-1.5 z-10 -ml-2.5 flex size-5 items-center justify-center rounded-full border border-bad bg-panel text-bad"
          style={{ left: `${at.left + at.width}%` }}
        >
          <Mark className="size-3" aria-hidden />
        </div>
      )}
    </>
  );
}

function CallLine({ start, end, bar }: { start: number; end: number; bar: Range }) {
  const at = bar[1] > bar[0] ? place(start, end, bar) : null;
  return at && <span className="absolute bottom-0 h-[3px] min-w-px rounded-full bg-current opacity-50" style={span(at)} />;
}

function Ended({ at, how, seen }: { at: number; how: string; seen: Range }) {
  const where = place(at, at, seen);
  return where && <span className="absolute top-1.5 px-1 text-[11px] leading-5 text-soft" style={where.left > 80 ? { right: `${100 - where.left}%` } : { left: `${where.left}%` }}>{how}</span>;
}

/** Words in a bar only where there is room for them: a container query, so nothing is measured. */
function Roomy({ children }: { children: ReactNode }) {
  return <span className="hidden truncate px-1.5 @min-[3rem]:block">{children}</span>;
}

const span = ({ left, width }: { left: number; width: number }): CSSProperties => ({ left: `${left}%`, width: `${width}%` });

function titleOf(attempt: Attempt, end: number): string {
  const how = attempt.how === "running" ? "running" : attempt.how.replace("_", " ");
  return [`attempt ${attempt.attempt ?? attempt.claim}`, attempt.worker, `${how} after ${duration((end - attempt.start) / 1000)}`, attempt.why].filter(Boolean).join(" · ");
}
