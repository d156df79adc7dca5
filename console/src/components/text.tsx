import { pieces } from "@/lib/visible";

/** Text of somebody else: as it is, with what cannot be seen made visible. Never markup. */
export function Plain({ text }: { text: string }) {
  return (
    <>
      {pieces(text).map((piece, index) =>
        piece.hidden ? (
          <span key={index} title={`hidden character ${piece.text}`} className="mx-px rounded-sm bg-wait-soft px-0.5 font-mono text-[0.85em] text-wait">
            {piece.text}
          </span>
        ) : (
          piece.text
        ),
      )}
    </>
  );
}
