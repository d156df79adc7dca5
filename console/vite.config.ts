import tailwindcss from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const API = process.env.DURABLE_AGENT_API ?? "http://127.0.0.1:4000";

/** While developing: what a browser navigates to is the console's, everything else is the API's. */
function proxied() {
  const api = {
    target: API,
    bypass: (request: { headers: { accept?: string }; url?: string }) =>
      request.headers.accept?.includes("text/html") ? "/index.html" : undefined,
  };
  const paths = [
    "runs", "waits", "graphs", "artifacts", "agents", "tool-servers", "models", "gates", "dead-letters", "workers", "keys", "stats",
    "ws-tickets", "healthz", "readyz", "openapi.json",
  ];
  return {
    ...Object.fromEntries(paths.map((path) => [`^/${path}(/|$|\\?)`, api])),
    "^/ws(/|$|\\?)": { target: API, ws: true },
  };
}

export default defineConfig({
  // Relative: the server says with <base> below which path it is mounted.
  base: "./",
  plugins: [react(), tailwindcss()],
  resolve: { alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) } },
  build: {
    outDir: "../src/durable_agent/_console",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: proxied() },
  preview: { proxy: proxied() },
  // One window for all files: making one anew for each takes four times as long as the tests do.
  test: { environment: "happy-dom", include: ["src/**/*.test.{ts,tsx}"], isolate: false },
});
