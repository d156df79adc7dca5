import type { ReactNode } from "react";
import { Heading } from "@/components/panel";
import { KeyOfThisBrowser } from "@/routes/settings/own-key";
import { Keys } from "@/routes/settings/keys";
import { Server } from "@/routes/settings/server";
import { ThemeChoice } from "@/routes/settings/theme-choice";

export function SettingsScreen(): ReactNode {
  return (
    <div className="mx-auto w-full max-w-3xl">
      <Heading title="Settings" />
      <div className="flex flex-col gap-4">
        <KeyOfThisBrowser />
        <ThemeChoice />
        <Keys />
        <Server />
      </div>
    </div>
  );
}
