import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { cleanup, fireEvent, render, screen, waitFor } from "@testing-library/react";
import { afterEach, describe, expect, it, vi } from "vitest";
import { Problem, storedKey, storeKey } from "@/api/client";
import type { Key } from "@/api/types";
import { keyState } from "@/routes/settings/keys";
import { NewKey } from "@/routes/settings/new-key";
import { KeyOfThisBrowser, verdict } from "@/routes/settings/own-key";

const answers = (make: (path: string, init: RequestInit) => Response) => vi.stubGlobal("fetch", vi.fn((path: string, init: RequestInit) => Promise.resolve(make(path, init))));
const json = (body: unknown, status = 200) => new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json" } });
const shown = (what: React.ReactNode) => render(<QueryClientProvider client={new QueryClient({ defaultOptions: { queries: { retry: false } } })}>{what}</QueryClientProvider>);

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
  storeKey("");
});

describe("the test of a key", () => {
  it("says what came of it", () => {
    const refused = (status: number) => new Problem(status, "", "", "");
    expect(verdict(true, null)).toMatchObject({ ok: true, text: "The server accepts this key." });
    expect(verdict(false, null).text).toContain("asks for no key");
    expect(verdict(true, refused(401)).text).toContain("does not know this key");
    expect(verdict(false, refused(401)).text).toContain("asks for a key");
    expect(verdict(true, refused(403)).text).toContain("may not read");
    expect(verdict(true, refused(503))).toEqual({ ok: false, text: "" });
  });

  it("keeps what was typed, asks with it, and forgets it", async () => {
    answers((_, init) => (new Headers(init.headers).get("Authorization") === "Bearer good" ? json({ items: [] }) : json({ title: "Unauthorized" }, 401)));
    shown(<KeyOfThisBrowser />);
    await screen.findByText(/asks for a key/);
    fireEvent.change(screen.getByLabelText("Key"), { target: { value: " good " } });
    fireEvent.click(screen.getByRole("button", { name: "Save and test" }));
    await screen.findByText("The server accepts this key.");
    expect(storedKey()).toBe("good");
    expect((screen.getByLabelText("Key") as HTMLInputElement).value).toBe("");
    fireEvent.click(screen.getByRole("button", { name: "Forget" }));
    await screen.findByText(/asks for a key/);
    expect(storedKey()).toBe("");
  });
});

it("is a key that works, has expired or was revoked", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  const key = (more: Partial<Key>) => keyState({ id: "", name: "", scopes: [], created_at: "", expires_at: null, revoked_at: null, ...more }, now);
  expect([key({}), key({ expires_at: "2026-01-02T00:00:00Z" }), key({ expires_at: "2025-12-31T00:00:00Z" }), key({ revoked_at: "x", expires_at: "2026-01-02T00:00:00Z" })])
    .toEqual(["works", "works", "expired", "revoked"]);
});

describe("a new key", () => {
  it("that is the first is taken by this browser and shown until it is kept", async () => {
    const asked: unknown[] = [];
    answers((path, init) => {
      if (path.endsWith("/keys")) asked.push(JSON.parse(init.body as string));
      return json({ key: "da_secret" }, 201);
    });
    const close = vi.fn();
    shown(<NewKey first onClose={close} />);
    expect(screen.getByText(/This is the first key/)).toBeTruthy();
    fireEvent.change(screen.getByLabelText("Name"), { target: { value: "on-call" } });
    fireEvent.click(screen.getByRole("button", { name: "Make the key" }));
    await screen.findByText("da_secret");
    expect(asked).toEqual([{ name: "on-call", scopes: ["read", "write", "operate", "admin"] }]);
    await waitFor(() => expect(storedKey()).toBe("da_secret"));
    fireEvent.click(screen.getByRole("button", { name: "Close" }));
    expect(close).not.toHaveBeenCalled();
    fireEvent.click(screen.getByRole("button", { name: "I have kept it" }));
    expect(close).toHaveBeenCalledOnce();
  });

  it("that is the first cannot be one that locks everybody out", () => {
    answers(() => json({}));
    shown(<NewKey first onClose={() => undefined} />);
    fireEvent.click(screen.getByLabelText(/^admin/));
    expect((screen.getByRole("button", { name: "Make the key" }) as HTMLButtonElement).disabled).toBe(true);
  });

  it("does not replace the key that this browser has", async () => {
    storeKey("mine");
    answers(() => json({ key: "da_other" }, 201));
    shown(<NewKey first={false} onClose={() => undefined} />);
    fireEvent.change(screen.getByLabelText("Name"), { target: { value: "ci" } });
    fireEvent.click(screen.getByRole("button", { name: "Make the key" }));
    await screen.findByText("da_other");
    expect(storedKey()).toBe("mine");
  });
});
