import { Moon, Sun, SunMoon } from "lucide-react";
import { setTheme, useTheme, type Theme } from "@/app/theme";
import { Panel } from "@/components/panel";

const CHOICES: readonly { theme: Theme; label: string; icon: typeof Sun }[] = [
  { theme: "system", label: "As the system", icon: SunMoon },
  { theme: "light", label: "Light", icon: Sun },
  { theme: "dark", label: "Dark", icon: Moon },
];

export function ThemeChoice() {
  const theme = useTheme();
  return (
    <Panel title="Appearance">
      <fieldset>
        <legend className="sr-only">Theme</legend>
        <div className="grid grid-cols-3 gap-3">
          {CHOICES.map(({ theme: one, label, icon: Mark }) => (
            <label key={one} className={`flex cursor-pointer flex-col items-center gap-2 rounded-lg border p-3 text-center has-focus-visible:outline-2 has-focus-visible:outline-offset-2 has-focus-visible:outline-accent ${theme === one ? "border-accent bg-accent-soft text-accent" : "text-soft hover:border-strong hover:text-ink"}`}>
              <input type="radio" name="theme" checked={theme === one} onChange={() => setTheme(one)} className="sr-only" />
              <Mark className="size-5" aria-hidden />
              <span className="font-medium">{label}</span>
            </label>
          ))}
        </div>
      </fieldset>
    </Panel>
  );
}
