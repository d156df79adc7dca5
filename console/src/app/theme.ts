/** Light, dark, or as the system has it; remembered in this browser. */
import { useSyncExternalStore } from "react";

export type Theme = "system" | "light" | "dark";
const NAME = "durable-agent.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set<() => void>();

export function theme(): Theme {
  const stored = localStorage.getItem(NAME);
  return stored === "light" || stored === "dark" ? stored : "system";
}

export function isDark(): boolean {
  return theme() === "system" ? dark.matches : theme() === "dark";
}

export function setTheme(next: Theme): void {
  if (next === "system") localStorage.removeItem(NAME);
  else localStorage.setItem(NAME, next);
  applyTheme();
}

export function applyTheme(): void {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  for (const listener of listeners) listener();
}

dark.addEventListener("change", applyTheme);

const subscribe = (listener: () => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

export function useTheme(): Theme {
  return useSyncExternalStore(subscribe, theme);
}

/** Whether it is dark now; for what draws on a canvas and cannot ask the style sheet. */
export function useDark(): boolean {
  return useSyncExternalStore(subscribe, isDark);
}
