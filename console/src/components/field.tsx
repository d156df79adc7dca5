import { useId, type InputHTMLAttributes, type ReactNode, type SelectHTMLAttributes, type TextareaHTMLAttributes } from "react";

const BOX = "w-full rounded-md border border-strong bg-panel px-2.5 text-ink placeholder:text-faint aria-invalid:border-bad";

interface Frame {
  label: string;
  hint?: ReactNode;
  error?: string | null;
  hideLabel?: boolean;
}

function Framed({ id, label, hint, error, hideLabel, children }: Frame & { id: string; children: ReactNode }) {
  return (
    <div className="flex min-w-0 flex-col gap-1">
      <label htmlFor={id} className={hideLabel ? "sr-only" : "font-medium"}>{label}</label>
      {children}
      {hint && <p id={`${id}-hint`} className="text-[12.5px] text-soft">{hint}</p>}
      {error && <p id={`${id}-error`} role="alert" className="text-[12.5px] text-bad">{error}</p>}
    </div>
  );
}

function described(id: string, { hint, error }: Frame): { "aria-describedby"?: string; "aria-invalid"?: true } {
  const by = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(" ");
  return { ...(by ? { "aria-describedby": by } : {}), ...(error ? { "aria-invalid": true as const } : {}) };
}

export function Input({ label, hint, error, hideLabel, className = "", ...rest }: Frame & InputHTMLAttributes<HTMLInputElement>) {
  const id = useId();
  const frame = { label, hint, error: error ?? null, hideLabel: hideLabel ?? false };
  return (
    <Framed id={id} {...frame}>
      <input id={id} {...described(id, frame)} {...rest} className={`${BOX} h-8 ${className}`} />
    </Framed>
  );
}

export function TextArea({ label, hint, error, hideLabel, className = "", ...rest }: Frame & TextareaHTMLAttributes<HTMLTextAreaElement>) {
  const id = useId();
  const frame = { label, hint, error: error ?? null, hideLabel: hideLabel ?? false };
  return (
    <Framed id={id} {...frame}>
      <textarea id={id} rows={4} {...described(id, frame)} {...rest} className={`${BOX} py-1.5 ${className}`} />
    </Framed>
  );
}

export function Select({ label, hint, error, hideLabel, className = "", children, ...rest }: Frame & SelectHTMLAttributes<HTMLSelectElement>) {
  const id = useId();
  const frame = { label, hint, error: error ?? null, hideLabel: hideLabel ?? false };
  return (
    <Framed id={id} {...frame}>
      <select id={id} {...described(id, frame)} {...rest} className={`${BOX} h-8 pr-7 ${className}`}>{children}</select>
    </Framed>
  );
}

export function Checkbox({ label, ...rest }: { label: string } & InputHTMLAttributes<HTMLInputElement>) {
  const id = useId();
  return (
    <label htmlFor={id} className="inline-flex items-center gap-2">
      <input id={id} type="checkbox" {...rest} className="size-4 accent-accent" />
      {label}
    </label>
  );
}
