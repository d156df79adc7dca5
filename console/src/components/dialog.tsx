import { Dialog as Base } from "@base-ui/react/dialog";
import { X } from "lucide-react";
import { useState, type ReactNode } from "react";
import { Button, IconButton, type Look } from "@/components/button";
import { Failure } from "@/components/panel";

interface Props {
  open: boolean;
  onClose: () => void;
  title: string;
  children: ReactNode;
  actions?: ReactNode;
  wide?: boolean;
}

export function Dialog({ open, onClose, title, children, actions, wide }: Props) {
  return (
    <Base.Root open={open} onOpenChange={(now) => !now && onClose()}>
      <Base.Portal>
        <Base.Backdrop className="fixed inset-0 z-40 bg-black/40" />
        <Base.Popup className={`fixed top-1/2 left-1/2 z-50 flex max-h-[90dvh] w-[calc(100vw-2rem)] -translate-x-1/2 -translate-y-1/2 flex-col rounded-xl border bg-panel shadow-2xl ${wide ? "max-w-4xl" : "max-w-lg"}`}>
          <header className="flex items-center justify-between border-b py-2 pr-2 pl-4">
            <Base.Title className="font-semibold">{title}</Base.Title>
            <IconButton label="Close" onClick={onClose}><X className="size-4" aria-hidden /></IconButton>
          </header>
          <div className="min-h-0 overflow-auto p-4">{children}</div>
          {actions && <footer className="flex justify-end gap-2 border-t px-4 py-3">{actions}</footer>}
        </Base.Popup>
      </Base.Portal>
    </Base.Root>
  );
}

interface AskProps {
  title: string;
  /** What happens, said before it does. */
  text: ReactNode;
  action: string;
  look?: Look;
  run: () => Promise<unknown>;
  onClose: () => void;
  children?: ReactNode;
}

/** Ask before something is done that cannot be taken back; what went wrong is said here. */
export function Ask({ title, text, action, look = "danger", run, onClose, children }: AskProps) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const go = async () => {
    setBusy(true);
    setError(null);
    try {
      await run();
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog open onClose={onClose} title={title} actions={<><Button onClick={onClose}>Keep it as it is</Button><Button look={look} busy={busy} onClick={() => void go()}>{action}</Button></>}>
      <div className="flex flex-col gap-3">
        <p className="text-soft">{text}</p>
        {children}
        {error !== null && <Failure error={error} />}
      </div>
    </Dialog>
  );
}
