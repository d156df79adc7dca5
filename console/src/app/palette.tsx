import { Dialog } from "@base-ui/react/dialog";
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { Command, defaultFilter } from "cmdk";
import { ArrowRight } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { get, queryOf } from "@/api/client";
import type { Page, RunSummary } from "@/api/types";
import { PLACES } from "@/app/nav";
import { setTheme } from "@/app/theme";
import { Plain } from "@/components/text";
import { Status } from "@/components/status";
import { shortId } from "@/lib/format";

const ITEM = "flex h-9 cursor-pointer items-center gap-2.5 rounded-md px-2.5 data-[selected=true]:bg-accent-soft data-[selected=true]:text-accent";
const GROUP = "[&_[cmdk-group-heading]]:px-2.5 [&_[cmdk-group-heading]]:py-1.5 [&_[cmdk-group-heading]]:text-xs [&_[cmdk-group-heading]]:text-faint";

const RUN = "run:";

/** What the server found is found, and stands after the screens. A value that changed with every letter would lose the selection. */
const score = (value: string, search: string, keywords?: string[]) => (value.startsWith(RUN) ? 0.0001 : defaultFilter(value, search, keywords));

/** Go anywhere by typing: screens, runs by id or goal, the theme. */
export function Palette({ onClose }: { onClose: () => void }) {
  const navigate = useNavigate();
  const [text, setText] = useState("");
  const { data } = useQuery({
    queryKey: ["palette", text],
    queryFn: ({ signal }) => get<Page<RunSummary>>(`/runs${queryOf({ q: text.trim(), limit: 8 })}`, signal),
    placeholderData: (before) => before,
  });
  const [chosen, setChosen] = useState("");
  const list = useRef<HTMLDivElement>(null);
  useEffect(() => {
    // What the server found comes after the first entry was chosen: without this Enter would do nothing.
    const timer = setTimeout(() => {
      const entries = [...(list.current?.querySelectorAll("[cmdk-item]") ?? [])];
      if (entries[0] && !entries.some((one) => one.getAttribute("aria-selected") === "true")) setChosen(entries[0].getAttribute("data-value") ?? "");
    });
    return () => clearTimeout(timer);
  }, [text, data]);
  const go = (run: () => void) => () => {
    onClose();
    run();
  };
  return (
    <Dialog.Root open onOpenChange={(now) => !now && onClose()}>
      <Dialog.Portal>
        <Dialog.Backdrop className="fixed inset-0 z-40 bg-black/40" />
        <Dialog.Popup aria-label="Go to" className="fixed top-[12vh] left-1/2 z-50 w-[calc(100vw-2rem)] max-w-xl -translate-x-1/2 overflow-hidden rounded-xl border bg-panel shadow-2xl">
          <Command label="Go to" loop filter={score} value={chosen} onValueChange={setChosen}>
            <Command.Input autoFocus value={text} onValueChange={setText} placeholder="A screen, or a run by its goal or id" className="h-12 w-full border-b bg-transparent px-4 outline-none placeholder:text-faint" />
            <Command.List ref={list} className="max-h-[55vh] overflow-auto p-1.5">
              <Command.Empty className="px-3 py-6 text-center text-soft">Nothing is called that.</Command.Empty>
              <Command.Group heading="Screens" className={GROUP}>
                {PLACES.map(({ to, label, icon: Picture, key, words }) => (
                  <Command.Item key={to} value={`${label} ${words ?? ""}`} onSelect={go(() => void navigate({ to }))} className={ITEM}>
                    <Picture className="size-4" aria-hidden />
                    {label}
                    <span className="ml-auto text-xs text-faint"><kbd className="font-sans">g</kbd> <kbd className="font-sans">{key}</kbd></span>
                  </Command.Item>
                ))}
              </Command.Group>
              {data && data.items.length > 0 && (
                <Command.Group heading="Runs" forceMount className={GROUP}>
                  {data.items.map((run) => (
                    <Command.Item key={run.id} value={RUN + run.id} forceMount onSelect={go(() => void navigate({ to: "/runs/$id", params: { id: run.id } }))} className={ITEM}>
                      <ArrowRight className="size-4 shrink-0" aria-hidden />
                      <span className="truncate"><Plain text={run.goal ?? run.graph ?? run.agent ?? "run"} /></span>
                      <code className="font-mono text-xs text-faint">{shortId(run.id)}</code>
                      <span className="ml-auto"><Status status={run.status} small /></span>
                    </Command.Item>
                  ))}
                </Command.Group>
              )}
              <Command.Group heading="Theme" className={GROUP}>
                {(["light", "dark", "system"] as const).map((one) => (
                  <Command.Item key={one} value={`theme ${one}`} onSelect={go(() => setTheme(one))} className={ITEM}>Use the {one} theme</Command.Item>
                ))}
              </Command.Group>
            </Command.List>
          </Command>
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}
