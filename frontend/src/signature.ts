/** The first line of a function for a slot, from what the slot says of the function that is in it. */

import type { SlotInfo } from "./contract";

const IDENTIFIER = /^[A-Za-z_]\w*$/;
const KEYWORDS = new Set(
  "False None True and as assert async await break class continue def del elif else except finally for from global if import in is lambda nonlocal not or pass raise return try while with yield".split(" "),
);

/** `def summary(f1, f0, message):` for a function that gets these values, newest first, and then the JSON texts. */
export function signatureOf(slot: SlotInfo): string {
  const start = slot.kind === "async" ? "async def" : "def";
  return `${start} ${nameOf(slot)}(${parameters(slot).join(", ")}):\n    `;
}

function nameOf({ function: name, name: slot_name }: SlotInfo): string {
  const candidates = [name?.split(".").at(-1), slot_name];
  return candidates.find((one): one is string => !!one && IDENTIFIER.test(one) && !KEYWORDS.has(one)) ?? "f";
}

function parameters({ slot, values, texts }: SlotInfo): string[] {
  if (values < 0) return ["*values"];
  return [...names(slot, values, ""), ...names(slot, texts, "_text")];
}

/** Names of the newest `count` of a slot's values: of the slots before it, then of the message. */
function names(slot: number, count: number, ending: string): string[] {
  return Array.from({ length: Math.min(count, slot + 1) }, (_, i) => (i < slot ? `f${slot - 1 - i}` : "message") + ending);
}
