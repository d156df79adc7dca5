export { Agents } from "@/routes/agents/list";
export { AgentScreen } from "@/routes/agents/detail";
