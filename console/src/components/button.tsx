import type { ButtonHTMLAttributes, ReactNode } from "react";

const LOOKS = {
  primary: "bg-accent text-on-accent border-transparent hover:opacity-90",
  plain: "bg-panel text-ink border-strong hover:bg-raised",
  quiet: "bg-transparent text-soft border-transparent hover:bg-raised hover:text-ink",
  danger: "bg-panel text-bad border-bad/40 hover:bg-bad-soft",
} as const;

export type Look = keyof typeof LOOKS;

export function buttonClass(look: Look = "plain", size: "small" | "normal" = "normal"): string {
  return [
    "inline-flex items-center justify-center gap-1.5 rounded-md border font-medium whitespace-nowrap select-none transition-colors",
    "disabled:opacity-50 disabled:pointer-events-none",
    size === "small" ? "h-7 px-2 text-[12.5px]" : "h-8 px-3",
    LOOKS[look],
  ].join(" ");
}

interface Props extends ButtonHTMLAttributes<HTMLButtonElement> {
  look?: Look;
  size?: "small" | "normal";
  icon?: ReactNode;
  busy?: boolean;
}

export function Button({ look = "plain", size = "normal", icon, busy, children, className = "", ...rest }: Props) {
  return (
    <button type="button" {...rest} disabled={rest.disabled || busy} aria-busy={busy || undefined} className={`${buttonClass(look, size)} ${className}`}>
      {icon}
      {children}
    </button>
  );
}

/** A button that is only a picture; `label` is what it is called. */
export function IconButton({ label, children, className = "", ...rest }: ButtonHTMLAttributes<HTMLButtonElement> & { label: string }) {
  return (
    <button type="button" aria-label={label} title={label} {...rest} className={`inline-flex size-8 items-center justify-center rounded-md text-soft hover:bg-raised hover:text-ink ${className}`}>
      {children}
    </button>
  );
}
