import { Menu } from "@base-ui/react/menu";
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { Ban, Columns2, Download, MessageSquare, MoreHorizontal, Pause, Play, RefreshCw, RotateCcw, Wallet } from "lucide-react";
import { useState, type ReactNode } from "react";
import { call, download } from "@/api/client";
import type { Run } from "@/api/types";
import { Button, buttonClass } from "@/components/button";
import { Ask } from "@/components/dialog";
import { Input } from "@/components/field";
import { Failure } from "@/components/panel";
import { can } from "@/routes/run/can";
import { CompareDialog, MessageDialog } from "@/routes/run/dialogs";

type Open = "cancel" | "compare" | "message" | "redrive" | null;
const ITEM = "flex h-8 cursor-pointer items-center gap-2.5 rounded-md px-2.5 outline-none data-[highlighted]:bg-raised data-[disabled]:opacity-50";

/** What can be done with the run as it stands. */
export function Actions({ run, onReplay, onBudget }: { run: Run; onReplay: () => void; onBudget: () => void }) {
  const client = useQueryClient();
  const [open, setOpen] = useState<Open>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const may = can(run);
  const refresh = () => client.invalidateQueries({ queryKey: ["run", run.id] });
  const at = async (what: () => Promise<unknown>) => {
    setBusy(true);
    setError(null);
    try {
      await what();
      await refresh();
    } catch (failure) {
      setError(failure);
    } finally {
      setBusy(false);
    }
  };
  const post = (verb: string, body: unknown = {}) => call("POST", `/runs/${run.id}/${verb}`, body);
  return (
    <>
      <div className="flex flex-wrap items-center gap-2">
        {may.resume && <Button look="primary" busy={busy} icon={<Play className="size-4" aria-hidden />} onClick={() => void at(() => post("resume"))}>Resume</Button>}
        {may.redrive && <Button look="primary" icon={<RefreshCw className="size-4" aria-hidden />} onClick={() => setOpen("redrive")}>Redrive</Button>}
        {may.message && <Button icon={<MessageSquare className="size-4" aria-hidden />} onClick={() => setOpen("message")}>Message</Button>}
        {may.pause && <Button busy={busy} icon={<Pause className="size-4" aria-hidden />} onClick={() => void at(() => post("pause"))}>Pause</Button>}
        <Button icon={<RotateCcw className="size-4" aria-hidden />} onClick={onReplay}>Replay</Button>
        {may.cancel && <Button look="danger" icon={<Ban className="size-4" aria-hidden />} onClick={() => setOpen("cancel")}>Cancel</Button>}
        <More>
          <Item icon={<Columns2 className="size-4" aria-hidden />} onClick={() => setOpen("compare")}>Compare with…</Item>
          <Item icon={<Download className="size-4" aria-hidden />} onClick={() => void at(() => download(`/runs/${run.id}/export`, `run-${run.id}.jsonl`))}>Export the record</Item>
          <Item icon={<Wallet className="size-4" aria-hidden />} onClick={onBudget}>Budget</Item>
        </More>
      </div>
      {error !== null && <div className="w-full"><Failure error={error} /></div>}
      {open === "cancel" && <Cancel run={run} onClose={() => setOpen(null)} cancel={(body) => post("cancel", body).then(refresh)} />}
      {open === "redrive" && <Redrive run={run} onClose={() => setOpen(null)} done={refresh} />}
      {open === "compare" && <CompareDialog run={run} onClose={() => setOpen(null)} />}
      {open === "message" && <MessageDialog run={run} onClose={() => setOpen(null)} />}
    </>
  );
}

function More({ children }: { children: ReactNode }) {
  return (
    <Menu.Root>
      <Menu.Trigger aria-label="More actions" className={`${buttonClass("plain")} w-8 px-0!`}><MoreHorizontal className="size-4" aria-hidden /></Menu.Trigger>
      {/* Within the main landmark: what opens there belongs to the screen. */}
      <Menu.Portal container={document.getElementById("main")}>
        <Menu.Positioner side="bottom" align="end" sideOffset={4} className="z-50">
          <Menu.Popup className="min-w-48 rounded-lg border bg-panel p-1 shadow-lg outline-none">{children}</Menu.Popup>
        </Menu.Positioner>
      </Menu.Portal>
    </Menu.Root>
  );
}

function Item({ icon, children, onClick }: { icon: ReactNode; children: ReactNode; onClick: () => void }) {
  return <Menu.Item className={ITEM} onClick={onClick}><span className="text-soft">{icon}</span>{children}</Menu.Item>;
}

function Cancel({ run, onClose, cancel }: { run: Run; onClose: () => void; cancel: (body: unknown) => Promise<unknown> }) {
  const [reason, setReason] = useState("");
  const undo = run.steps.some((step) => step.compensate && step.status === "succeeded");
  const text = `${run.steps_left} of ${run.steps_total} steps are not done. What is running is stopped within a second${undo ? ", and what was done is undone by the steps' compensations" : ""}. A cancelled run does not go on; it can be replayed.`;
  return (
    <Ask title="Cancel this run?" text={text} action="Cancel the run" onClose={onClose} run={() => cancel(reason.trim() ? { reason: reason.trim() } : {})}>
      <Input label="Reason" placeholder="Kept in the record" value={reason} maxLength={2000} onChange={(event) => setReason(event.target.value)} />
    </Ask>
  );
}

function Redrive({ run, onClose, done }: { run: Run; onClose: () => void; done: () => Promise<unknown> }) {
  const client = useQueryClient();
  const navigate = useNavigate();
  const dead = run.steps.filter((step) => step.status === "dead_letter");
  const [extra, setExtra] = useState("");
  const go = async () => {
    await call("POST", "/dead-letters/redrive", { run_id: run.id, ...(Number(extra) >= 1 ? { extra_attempts: Number(extra) } : {}) });
    await Promise.all([done(), client.invalidateQueries({ queryKey: ["dead-letters"] })]);
    // The socket of an ended run has closed: a visit anew opens one that goes on where the record ends.
    await navigate({ to: "/runs/$id", params: { id: run.id }, search: (before) => before, replace: true });
  };
  return (
    <Ask title="Give it another chance?" look="primary" action="Redrive" onClose={onClose} run={go} text={`${dead.length === 1 ? "One step" : `${dead.length} steps`} gave up. With what caused it mended, the run goes on there; what has succeeded is kept.`}>
      <Input label="More attempts" type="number" min={1} max={1000} placeholder="as many as before" value={extra} onChange={(event) => setExtra(event.target.value)} />
    </Ask>
  );
}
