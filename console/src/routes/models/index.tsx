import type { ReactNode } from "react";
import { Heading } from "@/components/panel";
import { Gates } from "@/routes/models/gates";
import { Prices } from "@/routes/models/prices";

export function Models(): ReactNode {
  return (
    <>
      <Heading title="Models and gates" note="What models cost, and what providers and tools let the whole fleet take." />
      <div className="flex flex-col gap-4">
        <Gates />
        <Prices />
      </div>
    </>
  );
}
