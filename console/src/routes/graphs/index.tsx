export { Graphs } from "@/routes/graphs/list";
export { GraphScreen } from "@/routes/graphs/detail";
