import { useMemo, useState } from "react";
import type { Json } from "@/api/types";
import { Button } from "@/components/button";
import { JsonEditor } from "@/routes/new/editor";
import { RunForm } from "@/routes/new/frame";
import { locate } from "@/routes/new/locate";
import { TEMPLATES, templateText } from "@/routes/new/templates";

const FIRST = TEMPLATES[0]!;

/** Steps of one's own: an array, or a whole request with steps in it, as documentation and other tools have it. */
export function StepsForm() {
  const [goal, setGoal] = useState(FIRST.goal);
  const [text, setText] = useState(() => templateText(FIRST));
  const located = useMemo(() => locate(text), [text]);
  const make = () => {
    if (located.mistake) return null;
    const value = JSON.parse(text) as Json;
    const whole = value !== null && typeof value === "object" && !Array.isArray(value);
    const steps = whole ? value.steps : value;
    const prefix = whole ? "steps." : "";
    const at = new Map([...located.at].filter(([path]) => path.startsWith(prefix)).map(([path, offset]) => [path.slice(prefix.length), offset]));
    return { body: whole ? value : { steps: value }, steps: { located: { mistake: null, at }, value: steps } };
  };
  return (
    <RunForm goal={goal} onGoal={setGoal} make={make}>
      {(answer) => (
        <div className="flex flex-col gap-3">
          <div role="group" aria-label="Templates" className="flex flex-wrap items-center gap-2">
            <span className="text-[12.5px] text-soft">Begin with</span>
            {TEMPLATES.map((one) => (
              <Button key={one.name} size="small" title={one.text} onClick={() => { setText(templateText(one)); setGoal(one.goal); }}>{one.name}</Button>
            ))}
          </div>
          <JsonEditor label="Steps" hint="Each has a name, an input with its tool, and what it depends on." value={text} onChange={setText} located={located} remarks={answer.remarks} />
        </div>
      )}
    </RunForm>
  );
}
