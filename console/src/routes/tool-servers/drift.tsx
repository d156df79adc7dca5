import { useQueryClient } from "@tanstack/react-query";
import { ShieldAlert } from "lucide-react";
import { useState } from "react";
import { call } from "@/api/client";
import { serversQuery } from "@/api/queries";
import type { ServerTool, ToolServer } from "@/api/types";
import { Button } from "@/components/button";
import { Ask } from "@/components/dialog";
import { Json } from "@/components/json";
import { Tag, type Tone } from "@/components/status";
import { Plain } from "@/components/text";
import { changedParts, changesOf, ordered, shown, sideBySide, type Line, type ToolChange } from "@/routes/tool-servers/compare";
import { EffectTag } from "@/routes/tool-servers/tools";

const KIND: Record<ToolChange["kind"], { label: string; tone: Tone }> = {
  added: { label: "new", tone: "wait" },
  changed: { label: "changed", tone: "wait" },
  removed: { label: "gone", tone: "idle" },
};

/** A server that offers something else than was approved: what, and the one way to accept it. */
export function Drift({ server }: { server: ToolServer }) {
  const changes = changesOf(server.tools ?? [], server.seen ?? []);
  const digest = server.seen_digest ?? "";
  const [asking, setAsking] = useState(false);
  const client = useQueryClient();
  const approve = async () => {
    await call("POST", `/tool-servers/${server.id}/approve`, { digest });
    await client.invalidateQueries({ queryKey: serversQuery.queryKey });
  };
  return (
    <section aria-labelledby="drift" className="rounded-lg border border-bad/40 bg-panel">
      <header className="flex flex-wrap items-start gap-3 border-b px-4 py-3">
        <ShieldAlert className="mt-0.5 size-5 shrink-0 text-bad" aria-hidden />
        <div className="min-w-0 flex-1 basis-64">
          <h2 id="drift" className="font-semibold">It offers something else than was approved</h2>
          <p className="text-soft">{summary(changes)} Until somebody approves this list, runs that use the server are refused at their start, and workers call none of its tools.</p>
        </div>
        <Button look="primary" onClick={() => setAsking(true)}>Approve this list</Button>
      </header>
      <ul className="divide-y">{changes.map((change) => <Change key={change.name} change={change} />)}</ul>
      {asking && (
        <Ask title={`Approve what ${server.name} offers now?`} look="primary" action="Approve the list" run={approve} onClose={() => setAsking(false)}
          text="From then on agents may call these tools as they are now described. A description is read by models: approve it only if you would say it to them yourself.">
          <p className="text-soft">{summary(changes)}</p>
          <p className="text-[12.5px] text-soft">Digest <code className="font-mono break-all text-ink">{digest}</code></p>
        </Ask>
      )}
    </section>
  );
}

/** The changes in a sentence. */
export function summary(changes: readonly ToolChange[]): string {
  const said = (["added", "changed", "removed"] as const)
    .map((kind) => [changes.filter((one) => one.kind === kind).length, { added: "new", changed: "changed", removed: "gone" }[kind]] as const)
    .filter(([many]) => many > 0)
    .map(([many, word]) => `${many} ${word}`);
  return said.length ? `${said.join(", ")}.` : "The tools are the same; their order or the server’s digest is not.";
}

function Change({ change }: { change: ToolChange }) {
  const { label, tone } = KIND[change.kind];
  return (
    <li className="px-4 py-3">
      <details open={change.kind !== "removed"} className="group">
        <summary className="flex cursor-pointer flex-wrap items-center gap-2 rounded">
          <Tag tone={tone}>{label}</Tag>
          <code className="font-mono font-medium"><Plain text={change.name} /></code>
          <EffectChange before={change.before} after={change.after} />
        </summary>
        <Sides left={change.before} right={change.after} name={change.name} />
      </details>
    </li>
  );
}

function EffectChange({ before, after }: { before: ServerTool | null; after: ServerTool | null }) {
  if (!before || !after || before.effect === after.effect) return <EffectTag effect={(after ?? before)?.effect} />;
  return <span className="inline-flex items-center gap-1.5 text-[12.5px] text-soft"><EffectTag effect={before.effect} /> became <EffectTag effect={after.effect} /></span>;
}

/** Beside each other where there is room, else below each other as a patch. */
function Sides({ left, right, name }: { left: ServerTool | null; right: ServerTool | null; name: string }) {
  if (!left || !right) {
    const tool = (left ?? right)!;
    return (
      <div className="mt-2 flex flex-col gap-2">
        {tool.description && <p className="max-w-3xl break-words whitespace-pre-wrap text-soft"><Plain text={tool.description} /></p>}
        <Json value={tool.parameters} label={`Arguments of ${name}`} />
      </div>
    );
  }
  const lines = changedParts(sideBySide(ordered(shown(left)), ordered(shown(right))));
  return (
    <div className="mt-3 overflow-hidden rounded-md border text-[12.5px]">
      <div tabIndex={0} role="group" aria-label={`${name}: approved and offered now`} className="max-h-96 overflow-auto font-mono leading-5">
        <div className="hidden md:block"><Pairs lines={lines} /></div>
        <div className="md:hidden"><Patch lines={lines} /></div>
      </div>
    </div>
  );
}

function Gap({ many }: { many: string }) {
  return <div className="col-span-2 bg-raised/60 px-2 font-sans text-xs leading-6 text-soft">{many} lines are the same</div>;
}

function Pairs({ lines }: { lines: Line[] }) {
  return (
    <div className="grid grid-cols-2">
      <div className="border-r border-b px-2 py-1 font-sans text-xs text-soft">approved</div>
      <div className="border-b px-2 py-1 font-sans text-xs text-soft">offered now</div>
      {lines.map((line, index) => line.kind === "gap" ? <Gap key={index} many={line.left!} /> : (
        <div key={index} className="contents">
          <Side text={line.left} look={line.kind === "same" ? "" : line.left === null ? "bg-raised" : "bg-bad-soft"} mark={line.kind === "same" ? " " : "−"} border />
          <Side text={line.right} look={line.kind === "same" ? "" : line.right === null ? "bg-raised" : "bg-good-soft"} mark={line.kind === "same" ? " " : "+"} />
        </div>
      ))}
    </div>
  );
}

function Side({ text, look, mark, border }: { text: string | null; look: string; mark: string; border?: boolean }) {
  return (
    <div className={`flex min-w-0 px-2 ${border ? "border-r" : ""} ${look}`}>
      <span className="w-4 shrink-0 text-soft select-none">{text === null ? "" : mark}</span>
      <span className="min-w-0 break-words whitespace-pre-wrap">{text !== null && <Plain text={text} />}</span>
    </div>
  );
}

function Patch({ lines }: { lines: Line[] }) {
  return (
    <>
      {lines.map((line, index) =>
        line.kind === "gap" ? (
          <Gap key={index} many={line.left!} />
        ) : line.kind === "same" ? (
          <Side key={index} text={line.left} look="" mark=" " />
        ) : (
          <div key={index}>
            {line.left !== null && <Side text={line.left} look="bg-bad-soft" mark="−" />}
            {line.right !== null && <Side text={line.right} look="bg-good-soft" mark="+" />}
          </div>
        ),
      )}
    </>
  );
}
