import { Link } from "@tanstack/react-router";
import { RotateCcw } from "lucide-react";
import type { DeadLetter } from "@/api/types";
import { Button } from "@/components/button";
import { Tag } from "@/components/status";
import type { Column } from "@/components/table";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";
import { shortId } from "@/lib/format";
import { meaning, reasonText } from "@/routes/dead-letters/redrive";

/** The step as the link that the row is. */
function StepLink({ letter }: { letter: DeadLetter }) {
  return (
    <Link to="/runs/$id" params={{ id: letter.run_id }} search={{ step: letter.step }} className="block min-w-0 truncate font-medium outline-none after:absolute after:inset-0 focus-visible:after:rounded-md focus-visible:after:outline-2 focus-visible:after:-outline-offset-2 focus-visible:after:outline-accent">
      <Plain text={letter.step} />
    </Link>
  );
}

function Tries({ letter }: { letter: DeadLetter }) {
  return (
    <span className="text-soft">
      <span className="tabular">{letter.failures}</span> {letter.failures === 1 ? "failure" : "failures"}
      {letter.crashes > 0 && <span className="block text-[12.5px] text-bad"><span className="tabular">{letter.crashes}</span> {letter.crashes === 1 ? "crash" : "crashes"}</span>}
    </span>
  );
}

const origin = (letter: DeadLetter) => (
  <span className="block truncate text-[12.5px] text-soft">
    <code className="font-mono">{shortId(letter.run_id)}</code>
    {letter.tool && <> · <Link to="/dead-letters" search={(before) => ({ ...before, tool: letter.tool ?? undefined })} title="Only of this tool" className="relative z-[1] hover:text-accent hover:underline"><Plain text={letter.tool} /></Link></>}
  </span>
);

export function letterColumns(onRedrive: (letter: DeadLetter) => void): Column<DeadLetter>[] {
  return [
    { id: "step", header: "Step", width: "minmax(150px,1fr)", cell: (one) => <><StepLink letter={one} />{origin(one)}</> },
    { id: "reason", header: "Reason", width: "150px", cell: (one) => <span title={meaning(one.reason)}><Tag tone="bad"><Plain text={reasonText(one.reason)} /></Tag></span> },
    { id: "message", header: "What was said", width: "minmax(180px,2fr)", cell: (one) => <span title={one.message} className="line-clamp-2 text-[12.5px] break-words whitespace-normal text-soft"><Plain text={one.message} /></span> },
    { id: "tries", header: "Tries", width: "84px", cell: (one) => <Tries letter={one} /> },
    { id: "at", header: "When", width: "104px", right: true, cell: (one) => <span className="text-soft"><Time at={one.at} /></span> },
    {
      id: "act", header: "Action", quiet: true, width: "94px", right: true,
      cell: (one) => <Button size="small" className="relative z-[1]" icon={<RotateCcw className="size-3.5" aria-hidden />} onClick={() => onRedrive(one)}>Redrive<span className="sr-only"> {one.step}</span></Button>,
    },
  ];
}

export function LetterCard({ letter, onRedrive }: { letter: DeadLetter; onRedrive: () => void }) {
  return (
    <div className="flex flex-col gap-1">
      <div className="flex items-center justify-between gap-2"><StepLink letter={letter} /><Tag tone="bad"><Plain text={reasonText(letter.reason)} /></Tag></div>
      <p className="line-clamp-2 text-[12.5px] break-words text-soft"><Plain text={letter.message} /></p>
      <div className="flex items-center justify-between gap-2 text-[12.5px] text-soft">
        <span className="min-w-0 truncate"><code className="font-mono">{shortId(letter.run_id)}</code> · <Time at={letter.at} /></span>
        <Button size="small" className="relative z-[1]" onClick={onRedrive}>Redrive<span className="sr-only"> {letter.step}</span></Button>
      </div>
    </div>
  );
}
