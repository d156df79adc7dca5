import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Problem } from "@/api/client";
import { makeRouter } from "@/app/router";
import { applyTheme } from "@/app/theme";
import "@/styles.css";

// A refusal stays one however often it is asked for; what did not arrive may arrive the next time.
const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 2_000,
      retry: (failures, error) => failures < 5 && !(error instanceof Problem && error.status >= 400 && error.status < 500),
      retryDelay: (attempt) => Math.random() * Math.min(10_000, 250 * 2 ** attempt),
    },
  },
});

applyTheme();
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <QueryClientProvider client={client}>
      <RouterProvider router={makeRouter(client)} />
    </QueryClientProvider>
  </StrictMode>,
);
