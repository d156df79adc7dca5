import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { call } from "@/api/client";
import type { Run } from "@/api/types";
import { Button } from "@/components/button";
import { Dialog } from "@/components/dialog";
import { Input, TextArea } from "@/components/field";
import { Failure } from "@/components/panel";

/** Return the id in what somebody pasted: an id, or an address that holds one. The last one counts. */
export function idIn(text: string): string | null {
  return text.toLowerCase().match(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g)?.at(-1) ?? null;
}

/** Which run to lay beside this one: what it is a replay of, or any other. */
export function CompareDialog({ run, onClose }: { run: Run; onClose: () => void }) {
  const navigate = useNavigate();
  const [text, setText] = useState("");
  const id = idIn(text);
  const error = text.trim() && !id ? "That holds no run id." : id === run.id ? "That is this run." : null;
  const go = (a: string, b: string) => {
    onClose();
    void navigate({ to: "/runs/$id/diff/$other", params: { id: a, other: b } });
  };
  return (
    <Dialog open onClose={onClose} title="Compare with another run" actions={<Button look="primary" disabled={!id || error !== null} onClick={() => id && go(id, run.id)}>Compare</Button>}>
      <div className="flex flex-col gap-4">
        {run.origin && (
          <button type="button" onClick={() => go(run.origin!, run.id)} className="flex flex-col items-start gap-0.5 rounded-md border border-strong px-3 py-2 text-left hover:bg-raised">
            <span className="font-medium">The run this one replays</span>
            <code className="font-mono text-[12px] text-soft">{run.origin}</code>
          </button>
        )}
        <Input label="Another run" placeholder="Its id, or its address" hint="Steps are compared by name; the other run stands on the left." value={text} error={error} autoFocus onChange={(event) => setText(event.target.value)} />
      </div>
    </Dialog>
  );
}

/** Say something more to an agent: it answers its question, or goes on in a new run. */
export function MessageDialog({ run, onClose }: { run: Run; onClose: () => void }) {
  const navigate = useNavigate();
  const [message, setMessage] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const waits = run.status === "waiting_for_input";
  const send = async () => {
    setBusy(true);
    setError(null);
    try {
      const made = await call<{ id: string }>("POST", `/runs/${run.id}/messages`, { message });
      onClose();
      if (made.id !== run.id) await navigate({ to: "/runs/$id", params: { id: made.id } });
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog open onClose={onClose} title={waits ? "Answer the agent" : "Go on with the conversation"} actions={<Button look="primary" busy={busy} disabled={!message.trim()} onClick={() => void send()}>Send</Button>}>
      <div className="flex flex-col gap-3">
        <TextArea label="Message" rows={5} autoFocus value={message} hint={waits ? "The run waits for it, and goes on." : "The agent answers in a new run that knows all that was said here."} onChange={(event) => setMessage(event.target.value)} />
        {error !== null && <Failure error={error} />}
      </div>
    </Dialog>
  );
}
