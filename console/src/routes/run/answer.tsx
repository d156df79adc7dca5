import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { call } from "@/api/client";
import type { Wait } from "@/api/types";
import { Button } from "@/components/button";
import { Input, Select, TextArea } from "@/components/field";
import { Json } from "@/components/json";
import { Failure } from "@/components/panel";
import { Plain } from "@/components/text";
import { Time } from "@/components/time";

const ASKED: Record<string, string> = {
  approval: "An approval is needed", input: "An answer is needed", unknown_effect: "Nobody knows whether a call happened",
};

/** Read what is written as JSON where it is some, else as the words it is. */
export function valueOf(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

/** What a person is asked, and the answer, in place. */
export function Answer({ wait }: { wait: Wait }) {
  const client = useQueryClient();
  const [busy, setBusy] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);
  const send = async (verb: string, body: Record<string, unknown>) => {
    setBusy(verb);
    setError(null);
    try {
      await call("POST", `/waits/${wait.id}/${verb}`, body);
      await Promise.all([client.invalidateQueries({ queryKey: ["waits"] }), client.invalidateQueries({ queryKey: ["run", wait.run_id] })]);
    } catch (failure) {
      setError(failure);
      void client.invalidateQueries({ queryKey: ["waits"] });
    } finally {
      setBusy(null);
    }
  };
  const text = (name: string) => (typeof wait.request[name] === "string" ? (wait.request[name] as string) : null);
  return (
    <article data-wait={wait.id} aria-label={`${ASKED[wait.kind] ?? wait.kind} for ${wait.step}`} className="flex flex-col gap-3 px-4 py-3">
      <header className="flex flex-wrap items-baseline gap-x-3 gap-y-1">
        <h2 className="font-semibold text-wait">{ASKED[wait.kind] ?? "An answer is needed"}</h2>
        <span className="text-[12.5px] text-soft"><Plain text={wait.step} /> · asked <Time at={wait.opened_at} />{wait.expires_at && <> · expires <Time at={wait.expires_at} /></>}</span>
      </header>
      {(text("prompt") ?? text("message")) && <p className="max-w-3xl whitespace-pre-wrap"><Plain text={text("prompt") ?? text("message")!} /></p>}
      {text("tool") && <p className="text-[12.5px] text-soft">It would call <code className="font-mono text-ink"><Plain text={text("tool")!} /></code>{text("key") && <> with the key <code className="font-mono text-ink"><Plain text={text("key")!} /></code></>}</p>}
      {wait.request.arguments !== undefined && wait.request.arguments !== null && <Json value={wait.request.arguments} label="Arguments" />}
      {wait.kind === "approval" && <Approve busy={busy} send={send} />}
      {wait.kind === "input" && <Respond busy={busy} send={send} />}
      {wait.kind === "unknown_effect" && <Settle busy={busy} send={send} />}
      {error !== null && <Failure error={error} />}
    </article>
  );
}

interface Form {
  busy: string | null;
  send: (verb: string, body: Record<string, unknown>) => Promise<void>;
}

const reasonOf = (reason: string) => (reason.trim() ? { reason: reason.trim() } : {});

function Approve({ busy, send }: Form) {
  const [reason, setReason] = useState("");
  return (
    <div className="flex flex-wrap items-end gap-2">
      <div className="w-full md:max-w-md md:flex-1"><Input label="Reason" hideLabel placeholder="Reason, kept in the record" value={reason} maxLength={2000} onChange={(event) => setReason(event.target.value)} /></div>
      <Button look="primary" busy={busy !== null} onClick={() => void send("approve", reasonOf(reason))}>Approve</Button>
      <Button look="danger" busy={busy !== null} onClick={() => void send("reject", reasonOf(reason))}>Reject</Button>
    </div>
  );
}

function Respond({ busy, send }: Form) {
  const [value, setValue] = useState("");
  return (
    <div className="flex max-w-2xl flex-col gap-2">
      <TextArea label="Answer" hint="Text, or JSON where the step expects it." rows={3} value={value} onChange={(event) => setValue(event.target.value)} />
      <div className="flex gap-2">
        <Button look="primary" busy={busy !== null} disabled={!value.trim()} onClick={() => void send("respond", { value: valueOf(value) })}>Answer</Button>
        <Button look="danger" busy={busy !== null} onClick={() => void send("reject", {})}>Decline</Button>
      </div>
    </div>
  );
}

function Settle({ busy, send }: Form) {
  const [outcome, setOutcome] = useState("happened");
  const [result, setResult] = useState("");
  const [reason, setReason] = useState("");
  const go = () => send("settle", { outcome, ...(outcome === "happened" && result.trim() ? { result: valueOf(result) } : {}), ...reasonOf(reason) });
  return (
    <div className="flex max-w-2xl flex-col gap-2">
      <Select label="What became of it" hint="Ask the receiver for the key above before you say." value={outcome} onChange={(event) => setOutcome(event.target.value)}>
        <option value="happened">It happened</option>
        <option value="send_again">It did not: send it again</option>
        <option value="fail">It did not: let the step fail</option>
      </Select>
      {outcome === "happened" && <TextArea label="Its result" hint="JSON, or text; empty for none." rows={2} value={result} onChange={(event) => setResult(event.target.value)} />}
      <Input label="Reason" value={reason} maxLength={2000} onChange={(event) => setReason(event.target.value)} />
      <div><Button look="primary" busy={busy !== null} onClick={() => void go()}>Settle it</Button></div>
    </div>
  );
}
