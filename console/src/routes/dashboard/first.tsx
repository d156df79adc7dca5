import { Link } from "@tanstack/react-router";
import { Plus } from "lucide-react";
import { apiUrl } from "@/lib/base";
import { buttonClass } from "@/components/button";
import { CopyButton } from "@/components/json";

/** What stands here before the first run: how to make one. */
export function FirstRun() {
  const command = `curl -X POST ${location.origin}${apiUrl("/runs")} \\
  -H 'Content-Type: application/json' \\
  -d '{"goal": "Say hello", "steps": [
        {"name": "hello", "input": {"tool": "echo", "text": "hello"}},
        {"name": "again", "input": {"tool": "echo"}, "dependsOn": ["hello"]}]}'`;
  return (
    <section className="mx-auto mt-6 w-full max-w-2xl rounded-xl border bg-panel p-6 md:p-8">
      <h2 className="text-lg font-semibold tracking-tight">Start the first run</h2>
      <p className="mt-1 text-soft">A run is steps that depend on each other. Workers carry it to its end through crashes and restarts, and you watch it here.</p>
      <div className="relative mt-5 rounded-lg border bg-raised/50">
        <div className="absolute top-1.5 right-1.5"><CopyButton text={() => command} label="Copy the command" /></div>
        <pre tabIndex={0} role="group" aria-label="Command" className="overflow-x-auto p-4 pr-12 font-mono text-[12.5px] leading-5">{command}</pre>
      </div>
      <div className="mt-5 flex flex-wrap items-center gap-3">
        <Link to="/new" search={{}} className={buttonClass("primary")}><Plus className="size-4" aria-hidden />New run</Link>
        <Link to="/graphs" className="text-accent hover:underline">Graphs that workers registered</Link>
        <Link to="/workers" className="text-accent hover:underline">Workers</Link>
      </div>
    </section>
  );
}
