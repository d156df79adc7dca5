import Markdown from "react-markdown";
import { Plain } from "@/components/text";
import { pieces } from "@/lib/visible";

/** What a model may make of its text. Nothing that loads, runs, submits or lays itself over anything else. */
const ALLOWED = [
  "p", "br", "hr", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "a",
  "h1", "h2", "h3", "h4", "h5", "h6",
];

const LOOK = [
  "text-[13px] leading-relaxed break-words [&>*+*]:mt-2.5 [&_ul]:list-disc [&_ol]:list-decimal [&_ul,&_ol]:pl-5 [&_li+li]:mt-1",
  "[&_code]:rounded [&_code]:bg-raised [&_code]:px-1 [&_code]:font-mono [&_code]:text-[12px] [&_pre]:overflow-x-auto [&_pre]:rounded-md [&_pre]:bg-raised [&_pre]:p-2.5",
  "[&_pre_code]:p-0 [&_blockquote]:border-l-2 [&_blockquote]:border-strong [&_blockquote]:pl-3 [&_blockquote]:text-soft",
].join(" ");

/** Return the address if it leads to a page, else nothing: no script, no data, no path of this console. */
export function safeAddress(address: string | undefined): string | null {
  if (!address || !/^https?:\/\//i.test(address.trim())) return null;
  try {
    const { href, protocol } = new URL(address.trim());
    return protocol === "http:" || protocol === "https:" ? href : null;
  } catch {
    return null;
  }
}

/** Show by its code point what a text hides; within markdown that is text, never markup. */
function visible(text: string): string {
  return pieces(text).map((piece) => (piece.hidden ? `⟨${piece.text}⟩` : piece.text)).join("");
}

/** Text of a model with its headings, lists and links, and nothing else: no HTML, no pictures, links to the web only. */
export default function SafeMarkdown({ text }: { text: string }) {
  return (
    <div className={LOOK}>
      <Markdown
        skipHtml
        unwrapDisallowed
        allowedElements={ALLOWED}
        urlTransform={(address) => safeAddress(address) ?? ""}
        components={{
          a: ({ href, children }) => {
            const to = safeAddress(href);
            if (!to) return <span>{children}</span>;
            // Where it leads is said beside it: the words of a link are the model's.
            return (
              <a href={to} target="_blank" rel="noopener noreferrer nofollow" className="text-accent underline underline-offset-2">
                {children} <span className="text-[11px] text-soft">(<Plain text={new URL(to).host} />)</span>
              </a>
            );
          },
          // A model's headings are no headings of the page.
          ...Object.fromEntries(["h1", "h2", "h3", "h4", "h5", "h6"].map((name) => [name, Title])),
        }}
      >
        {visible(text)}
      </Markdown>
    </div>
  );
}

function Title({ children }: { children?: React.ReactNode }) {
  return <p className="font-semibold">{children}</p>;
}
