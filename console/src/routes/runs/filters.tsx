import { Menu } from "@base-ui/react/menu";
import { useQuery } from "@tanstack/react-query";
import { Check, ChevronDown } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { agentsQuery, graphsQuery } from "@/api/queries";
import type { RunStatus } from "@/api/types";
import { Button, buttonClass } from "@/components/button";
import { Input, Select } from "@/components/field";
import { Status } from "@/components/status";
import { localTime, PRESETS, RUN_STATUSES, statusesOf, statusLabel, type Search } from "@/routes/runs/filter";

interface Props {
  search: Search;
  /** What changes in the address; undefined takes it out. */
  onChange: (change: Partial<Search>) => void;
}

const SEARCH_MS = 250;

export function Filters({ search, onChange }: Props) {
  const { data: graphs } = useQuery(graphsQuery);
  const { data: agents } = useQuery(agentsQuery);
  const some = Object.values(search).some(Boolean);
  return (
    <div role="search" aria-label="Runs" className="mb-4 grid grid-cols-2 gap-2 md:flex md:flex-wrap md:items-center">
      <div className="col-span-2 md:w-64"><SearchBox value={search.q ?? ""} onChange={(q) => onChange({ q })} /></div>
      <StatusMenu chosen={statusesOf(search)} onChange={(status) => onChange({ status: status.join(",") })} />
      <Choice label="Graph" all="Any graph" value={search.graph} names={graphs?.items.map((one) => one.name)} onChange={(graph) => onChange({ graph })} />
      <Choice label="Agent" all="Any agent" value={search.agent} names={agents?.items.map((one) => one.name)} onChange={(agent) => onChange({ agent })} />
      <Period search={search} onChange={onChange} />
      {some && (
        <Button look="quiet" className="col-span-2" onClick={() => onChange({ status: "", graph: "", agent: "", q: "", since: "", until: "" })}>Clear filters</Button>
      )}
    </div>
  );
}

/** What is typed is looked for once the typing pauses; what the address says otherwise wins. */
function SearchBox({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  const [text, setText] = useState(value);
  const sent = useRef(value);
  useEffect(() => {
    if (value !== sent.current) setText(value);
    sent.current = value;
  }, [value]);
  const send = useRef(onChange);
  send.current = onChange;
  useEffect(() => {
    if (text === sent.current) return;
    const timer = setTimeout(() => {
      sent.current = text;
      send.current(text);
    }, SEARCH_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return <Input label="Search" hideLabel type="search" placeholder="Goal, or the whole id of a run" value={text} onChange={(event) => setText(event.target.value)} />;
}

function StatusMenu({ chosen, onChange }: { chosen: RunStatus[]; onChange: (chosen: RunStatus[]) => void }) {
  const toggle = (status: RunStatus, on: boolean) => onChange(on ? [...chosen, status] : chosen.filter((one) => one !== status));
  return (
    <Menu.Root>
      <Menu.Trigger className={`${buttonClass("plain")} justify-between! md:min-w-36 ${chosen.length ? "border-accent! text-accent" : ""}`}>
        <span className="sr-only">Status: </span>
        <span className="truncate">{statusLabel(chosen)}</span>
        <ChevronDown className="size-4 text-faint" aria-hidden />
      </Menu.Trigger>
      <Menu.Portal container={document.getElementById("main")}>
        <Menu.Positioner sideOffset={4} align="start" className="z-50">
          <Menu.Popup className="min-w-52 rounded-lg border bg-panel p-1 shadow-xl outline-none">
            {RUN_STATUSES.map((status) => (
              <Menu.CheckboxItem key={status} checked={chosen.includes(status)} onCheckedChange={(on) => toggle(status, on)} closeOnClick={false}
                className="flex h-8 cursor-pointer items-center gap-2 rounded-md px-2 outline-none data-[highlighted]:bg-raised">
                <span className="flex size-4 items-center justify-center rounded border border-strong">
                  <Menu.CheckboxItemIndicator><Check className="size-3.5 text-accent" aria-hidden /></Menu.CheckboxItemIndicator>
                </span>
                <Status status={status} small />
              </Menu.CheckboxItem>
            ))}
            {chosen.length > 0 && (
              <Menu.Item onClick={() => onChange([])} className="mt-1 flex h-8 cursor-pointer items-center rounded-md border-t px-2 text-soft outline-none data-[highlighted]:bg-raised">Any status</Menu.Item>
            )}
          </Menu.Popup>
        </Menu.Positioner>
      </Menu.Portal>
    </Menu.Root>
  );
}

function Choice({ label, all, value = "", names = [], onChange }: { label: string; all: string; value?: string | undefined; names?: string[] | undefined; onChange: (value: string) => void }) {
  const known = value && !names.includes(value) ? [value, ...names] : names;
  return (
    <div className="md:w-40">
      <Select label={label} hideLabel value={value} onChange={(event) => onChange(event.target.value)} className={value ? "border-accent! text-accent" : ""}>
        <option value="">{all}</option>
        {[...new Set(known)].map((name) => <option key={name} value={name}>{name}</option>)}
      </Select>
    </div>
  );
}

const BETWEEN = "between";

function Period({ search, onChange }: Props) {
  const custom = Boolean(search.until || (search.since && !PRESETS[search.since]));
  const [asked, setAsked] = useState(false);
  const between = custom || asked;
  const choose = (value: string) => {
    setAsked(value === BETWEEN);
    onChange({ since: value === BETWEEN ? "" : value, until: "" });
  };
  const moment = (name: "since" | "until", label: string) => (
    <div className="md:w-52">
      <Input label={label} hideLabel type="datetime-local" value={localTime(search[name])}
        onChange={(event) => onChange({ [name]: event.target.value ? new Date(event.target.value).toISOString() : "" })} />
    </div>
  );
  return (
    <>
      <div className="md:w-40">
        <Select label="Started" hideLabel value={between ? BETWEEN : search.since ?? ""} onChange={(event) => choose(event.target.value)} className={search.since || search.until ? "border-accent! text-accent" : ""}>
          <option value="">Any time</option>
          {Object.entries(PRESETS).map(([name, { label }]) => <option key={name} value={name}>{label}</option>)}
          <option value={BETWEEN}>Between …</option>
        </Select>
      </div>
      {between && moment("since", "Submitted after")}
      {between && moment("until", "Submitted before")}
    </>
  );
}
