/** Steps to begin with: each can be started as it stands. */
export interface Template { name: string; text: string; goal: string; steps: unknown[] }

const echo = (name: string, text: string, dependsOn: string[] = []) => ({ name, input: { tool: "echo", text }, ...(dependsOn.length ? { dependsOn } : {}) });

export const TEMPLATES: readonly Template[] = [
  { name: "Chain", text: "One step after the other", goal: "Say hello twice", steps: [echo("hello", "hello"), echo("again", "hello again", ["hello"])] },
  {
    name: "Fan out and join", text: "Branches at once, then one that waits for all", goal: "Ask three at once",
    steps: [echo("plan", "what to ask"), echo("ask.one", "first", ["plan"]), echo("ask.two", "second", ["plan"]), echo("ask.three", "third", ["plan"]), echo("join", "all of it", ["ask.one", "ask.two", "ask.three"])],
  },
  {
    name: "Condition", text: "A branch taken only when it holds", goal: "Escalate what is urgent",
    steps: [
      echo("read", "urgent"),
      { name: "escalate", input: { tool: "echo", text: "somebody is called" }, dependsOn: [{ step: "read", when: "output.text == 'urgent'" }] },
      { name: "file", input: { tool: "echo", text: "it is filed" }, dependsOn: [{ step: "read", when: "output.text != 'urgent'" }] },
    ],
  },
  {
    name: "Approval", text: "A person decides before it goes on", goal: "Send the letter",
    steps: [
      echo("draft", "Dear customer, …"),
      { name: "approve", kind: "approval", input: { prompt: "May this letter be sent?", arguments: { to: "customer" } }, dependsOn: ["draft"] },
      echo("send", "sent", ["approve"]),
    ],
  },
  {
    name: "Retries", text: "How often and how fast a step is tried again", goal: "Be patient",
    steps: [{ name: "careful", input: { tool: "echo", text: "hello" }, retry: { maxAttempts: 5, baseS: 1, factor: 2, capS: 60 }, timeoutS: 30 }],
  },
];

export function templateText(template: Template): string {
  return JSON.stringify(template.steps, null, 2);
}
