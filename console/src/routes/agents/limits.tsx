import type { Limit } from "@/api/types";
import { Plain } from "@/components/text";
import { Tag } from "@/components/status";
import { Time } from "@/components/time";
import { meterName, meterValue, windowText } from "@/routes/agents/meters";
import { Bar, share } from "@/routes/workers/bar";

/** One limit as a line of a list: what it is, how full it is. */
export function LimitLine({ limit }: { limit: Limit }) {
  const text = `${meterValue(limit.meter, limit.spent)} of ${meterValue(limit.meter, limit.cap)}`;
  const label = `${meterName(limit.meter)} ${windowText(limit.window_s)}`;
  return (
    <div className="flex min-w-0 flex-col gap-1" title={`${label}: ${text}`}>
      <div className="flex justify-between gap-2 text-xs text-soft">
        <span className="truncate"><Plain text={meterName(limit.meter)} /></span>
        <span className="tabular whitespace-nowrap">{Math.round(share(limit.spent + limit.reserved, limit.cap) * 100)} %</span>
      </div>
      <Bar label={label} text={text} value={limit.spent} reserved={limit.reserved} cap={limit.cap} />
    </div>
  );
}

/** One limit with all its figures. */
export function LimitCard({ limit }: { limit: Limit }) {
  const full = limit.spent + limit.reserved >= limit.cap;
  return (
    <li className="flex flex-col gap-1.5">
      <div className="flex flex-wrap items-baseline justify-between gap-x-3">
        <span className="font-medium first-letter:uppercase"><Plain text={meterName(limit.meter)} /> <span className="font-normal text-soft">{windowText(limit.window_s)}</span></span>
        <span className="tabular"><span className="font-medium">{meterValue(limit.meter, limit.spent)}</span> <span className="text-soft">of {meterValue(limit.meter, limit.cap)}</span></span>
      </div>
      <Bar label={`${meterName(limit.meter)} ${windowText(limit.window_s)}`} text={`${meterValue(limit.meter, limit.spent)} of ${meterValue(limit.meter, limit.cap)}`} value={limit.spent} reserved={limit.reserved} cap={limit.cap} />
      <p className="flex flex-wrap items-center gap-x-2 text-[12.5px] text-soft">
        {full && <Tag tone="bad">used up</Tag>}
        <span>{limit.on_limit === "fail" ? "ends the run that meets it" : "pauses the run that meets it"}</span>
        {limit.reserved > 0 && <span>· {meterValue(limit.meter, limit.reserved)} held for calls under way</span>}
        {limit.due_at && <span>· room again <Time at={limit.due_at} /></span>}
      </p>
    </li>
  );
}
