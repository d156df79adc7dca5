export { ToolServers } from "@/routes/tool-servers/list";
export { ToolServerScreen } from "@/routes/tool-servers/detail";
