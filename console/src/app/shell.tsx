import { useQuery } from "@tanstack/react-query";
import { Link, Outlet, useNavigate, useRouterState } from "@tanstack/react-router";
import { Menu, Moon, Search, Sun, SunMoon, X } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { healthQuery, waitsQuery } from "@/api/queries";
import { PLACES, type Place } from "@/app/nav";
import { Palette } from "@/app/palette";
import { setTheme, useTheme, type Theme } from "@/app/theme";
import { IconButton } from "@/components/button";
import { useLiveRuns } from "@/live/all";
import type { Connection } from "@/live/socket";

/** The frame of every screen: where one is, where one can go, whether what is shown is current. */
export function Shell() {
  const connection = useLiveRuns();
  const [open, setOpen] = useState(false);
  const [palette, setPalette] = useState(false);
  const path = useRouterState({ select: (state) => state.location.pathname });
  const main = useRef<HTMLElement>(null);
  useKeys(() => setPalette(true));
  useEffect(() => {
    setOpen(false);
    main.current?.scrollTo(0, 0);
  }, [path]);
  return (
    <div className="flex h-dvh">
      <a href="#main" className="sr-only focus:not-sr-only focus:absolute focus:z-50 focus:m-2 focus:rounded-md focus:bg-panel focus:p-2">Skip to the content</a>
      <Side open={open} onClose={() => setOpen(false)} />
      <div className="flex min-w-0 flex-1 flex-col">
        <header className="flex h-12 shrink-0 items-center gap-2 border-b bg-panel px-3 md:px-5">
          <IconButton label="Open the menu" className="md:hidden" onClick={() => setOpen(true)}><Menu className="size-5" aria-hidden /></IconButton>
          <button type="button" onClick={() => setPalette(true)} className="flex h-8 min-w-0 max-w-sm flex-1 items-center gap-2 rounded-md border bg-page px-2.5 text-left text-faint hover:border-strong">
            <Search className="size-4 shrink-0" aria-hidden />
            <span className="truncate">Go to a run, a screen, an action</span>
            <kbd className="ml-auto hidden rounded border bg-panel px-1 font-sans text-[11px] sm:block">Ctrl K</kbd>
          </button>
          <div className="ml-auto flex items-center gap-1">
            <LiveMark connection={connection} />
            <ThemeButton />
          </div>
        </header>
        <main id="main" ref={main} tabIndex={-1} className="min-h-0 flex-1 overflow-auto outline-none">
          <div className="mx-auto flex min-h-full max-w-[1600px] flex-col p-4 md:p-6">
            <Outlet />
          </div>
        </main>
      </div>
      {palette && <Palette onClose={() => setPalette(false)} />}
    </div>
  );
}

function Side({ open, onClose }: { open: boolean; onClose: () => void }) {
  return (
    <>
      {open && <button type="button" aria-label="Close the menu" className="fixed inset-0 z-30 bg-black/40 md:hidden" onClick={onClose} />}
      <nav aria-label="Screens" className={`fixed inset-y-0 left-0 z-40 flex w-56 shrink-0 flex-col border-r bg-panel transition-transform md:static md:translate-x-0 ${open ? "translate-x-0" : "invisible -translate-x-full md:visible"}`}>
        <div className="flex h-12 items-center justify-between border-b px-4">
          <Link to="/" className="flex items-center gap-2 font-semibold tracking-tight">
            <img src="./icon.svg" alt="" className="size-5" />
            durable-agent
          </Link>
          <IconButton label="Close the menu" className="md:hidden" onClick={onClose}><X className="size-4" aria-hidden /></IconButton>
        </div>
        <ul className="flex flex-1 flex-col gap-0.5 overflow-auto p-2">
          {PLACES.map((place) => <li key={place.to}><Entry place={place} /></li>)}
        </ul>
        <ServerState />
      </nav>
    </>
  );
}

function Entry({ place }: { place: Place }) {
  const Picture = place.icon;
  return (
    <Link
      to={place.to}
      activeOptions={{ exact: place.to === "/" }}
      className="flex h-8 items-center gap-2.5 rounded-md px-2.5 text-soft hover:bg-raised hover:text-ink data-[status=active]:bg-accent-soft data-[status=active]:font-medium data-[status=active]:text-accent"
    >
      <Picture className="size-4" aria-hidden />
      <span className="truncate">{place.label}</span>
      {place.to === "/waits" && <Open />}
      {place.to === "/dead-letters" && <Dead />}
    </Link>
  );
}

function Open() {
  const { data } = useQuery(waitsQuery());
  const count = data?.items.filter((wait) => wait.kind === "approval" || wait.kind === "input" || wait.kind === "unknown_effect").length ?? 0;
  return count ? <Count count={count} label="wait for a person" tone="text-wait bg-wait-soft" /> : null;
}

function Dead() {
  const { data } = useQuery(healthQuery);
  const count = data?.dead_letters ?? 0;
  return count ? <Count count={count} label="dead letters" tone="text-bad bg-bad-soft" /> : null;
}

function Count({ count, label, tone }: { count: number; label: string; tone: string }) {
  return <span aria-label={`${count} ${label}`} className={`tabular ml-auto rounded-full px-1.5 text-[11px] leading-5 font-semibold ${tone}`}>{count > 99 ? "99+" : count}</span>;
}

function ServerState() {
  const { data, error } = useQuery(healthQuery);
  const [tone, text] = error ? ["bg-bad", "server not reachable"] : !data ? ["bg-strong", "…"] : data.status === "ok" ? ["bg-good", "all is well"] : ["bg-wait", "something is stuck"];
  return (
    <Link to="/" className="flex items-center gap-2 border-t px-4 py-2.5 text-[12.5px] text-soft hover:text-ink">
      <span className={`size-2 rounded-full ${tone}`} aria-hidden />
      {text}
    </Link>
  );
}

const LIVE: Record<Connection, { tone: string; text: string }> = {
  connecting: { tone: "bg-strong", text: "connecting" },
  live: { tone: "bg-good", text: "live" },
  reconnecting: { tone: "bg-wait animate-pulse", text: "reconnecting" },
  ended: { tone: "bg-strong", text: "ended" },
  refused: { tone: "bg-bad", text: "needs a key" },
};

/** How current what is shown is. */
export function LiveMark({ connection }: { connection: Connection }) {
  const { tone, text } = LIVE[connection];
  return (
    <span role="status" data-connection={connection} className="inline-flex items-center gap-1.5 px-2 text-[12.5px] text-soft">
      <span className={`size-2 rounded-full ${tone}`} aria-hidden />
      {text}
    </span>
  );
}

const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };

function ThemeButton() {
  const theme = useTheme();
  const Picture = { system: SunMoon, light: Sun, dark: Moon }[theme];
  return <IconButton label={`Theme: ${theme}`} onClick={() => setTheme(NEXT[theme])}><Picture className="size-4" aria-hidden /></IconButton>;
}

/** Ctrl+K or / opens the palette; g and a letter go to a screen. */
function useKeys(openPalette: () => void): void {
  const navigate = useNavigate();
  const open = useRef(openPalette);
  open.current = openPalette;
  useEffect(() => {
    let armed = 0;
    const onKey = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        open.current();
        return;
      }
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, textarea, select, [contenteditable], [role=dialog]")) return;
      if (event.key === "/") {
        event.preventDefault();
        open.current();
      } else if (event.key === "g") armed = Date.now();
      else if (Date.now() - armed < 1500) {
        const place = PLACES.find((one) => one.key === event.key);
        armed = 0;
        if (place) void navigate({ to: place.to });
      }
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, [navigate]);
}

