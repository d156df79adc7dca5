/** Which screen an address shows. Each is loaded when it is first gone to. */
import type { QueryClient } from "@tanstack/react-query";
import { createRootRouteWithContext, createRoute, createRouter, lazyRouteComponent, Link } from "@tanstack/react-router";
import { Shell } from "@/app/shell";
import { Empty, Failure } from "@/components/panel";
import { BASE } from "@/lib/base";

const root = createRootRouteWithContext<{ client: QueryClient }>()({
  component: Shell,
  notFoundComponent: () => (
    <Empty title="There is no such page">
      <Link to="/" className="text-accent underline">Go to the dashboard</Link>
    </Empty>
  ),
  errorComponent: ({ error, reset }) => <Failure error={error} retry={reset} />,
});

type Search = Record<string, string | undefined>;
const text = (search: Record<string, unknown>, ...names: string[]): Search =>
  Object.fromEntries(names.filter((name) => search[name] !== undefined && search[name] !== "").map((name) => [name, String(search[name])]));

const screens = [
  createRoute({
    getParentRoute: () => root, path: "/", component: lazyRouteComponent(() => import("@/routes/dashboard"), "Dashboard"),
    validateSearch: (search) => text(search, "window"),
  }),
  createRoute({
    getParentRoute: () => root, path: "/runs", component: lazyRouteComponent(() => import("@/routes/runs"), "Runs"),
    validateSearch: (search) => text(search, "status", "graph", "agent", "q", "since", "until"),
  }),
  createRoute({
    getParentRoute: () => root, path: "/new", component: lazyRouteComponent(() => import("@/routes/new"), "NewRun"),
    validateSearch: (search) => text(search, "graph", "agent"),
  }),
  createRoute({
    getParentRoute: () => root, path: "/runs/$id", component: lazyRouteComponent(() => import("@/routes/run"), "RunScreen"),
    validateSearch: (search) => text(search, "view", "step", "type", "q"),
  }),
  createRoute({ getParentRoute: () => root, path: "/runs/$id/diff/$other", component: lazyRouteComponent(() => import("@/routes/diff"), "DiffScreen") }),
  createRoute({
    getParentRoute: () => root, path: "/waits", component: lazyRouteComponent(() => import("@/routes/waits"), "Waits"),
    validateSearch: (search) => text(search, "state"),
  }),
  createRoute({
    getParentRoute: () => root, path: "/dead-letters", component: lazyRouteComponent(() => import("@/routes/dead-letters"), "DeadLetters"),
    validateSearch: (search) => text(search, "reason", "tool"),
  }),
  createRoute({ getParentRoute: () => root, path: "/agents", component: lazyRouteComponent(() => import("@/routes/agents"), "Agents") }),
  createRoute({ getParentRoute: () => root, path: "/agents/$id", component: lazyRouteComponent(() => import("@/routes/agents"), "AgentScreen") }),
  createRoute({ getParentRoute: () => root, path: "/tool-servers", component: lazyRouteComponent(() => import("@/routes/tool-servers"), "ToolServers") }),
  createRoute({ getParentRoute: () => root, path: "/tool-servers/$id", component: lazyRouteComponent(() => import("@/routes/tool-servers"), "ToolServerScreen") }),
  createRoute({ getParentRoute: () => root, path: "/models", component: lazyRouteComponent(() => import("@/routes/models"), "Models") }),
  createRoute({ getParentRoute: () => root, path: "/graphs", component: lazyRouteComponent(() => import("@/routes/graphs"), "Graphs") }),
  createRoute({ getParentRoute: () => root, path: "/graphs/$name", component: lazyRouteComponent(() => import("@/routes/graphs"), "GraphScreen") }),
  createRoute({ getParentRoute: () => root, path: "/workers", component: lazyRouteComponent(() => import("@/routes/workers"), "Workers") }),
  createRoute({ getParentRoute: () => root, path: "/settings", component: lazyRouteComponent(() => import("@/routes/settings"), "SettingsScreen") }),
];

export function makeRouter(client: QueryClient) {
  return createRouter({
    routeTree: root.addChildren(screens), basepath: BASE, context: { client }, defaultPreload: "intent", scrollRestoration: false,
  });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof makeRouter>;
  }
}
