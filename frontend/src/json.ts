/**
 * JSON with every digit of its integers: those that a number of JavaScript cannot hold are `bigint`.
 *
 * `JSON.parse` makes 9007199254740992 of 9007199254740993, and `JSON.stringify` refuses a `bigint`. Here they
 * pass both as texts with a mark that no other text has.
 */

const MARK = `bigint ${crypto.getRandomValues(new Uint32Array(4)).join(" ")} `;
/** A text, or a number with sixteen digits or more: only such integers can be too large. */
const LONG = /\d{16}/;
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MARKED = new RegExp(`"${MARK}(-?\\d+)"`, "g");

/** Return the value of a JSON text. */
export function parse(text: string): unknown {
  if (!LONG.test(text)) return JSON.parse(text);
  let found = false;
  const marked = text.replace(TOKENS, (token) => {
    if (token.length < 16 || !/^-?\d+$/.test(token) || Number.isSafeInteger(Number(token))) return token;
    found = true;
    return `"${MARK}${token}"`;
  });
  return found ? JSON.parse(marked, unmarked) : JSON.parse(text);
}

/** Return the JSON text of a value that `parse` gave; `undefined` has none. */
export function stringify(value: unknown, indent?: number): string {
  const text = JSON.stringify(value, (_key, item: unknown) => (typeof item === "bigint" ? MARK + item : item), indent);
  return text?.replace(MARKED, "$1") ?? "undefined";
}

function unmarked(_key: string, item: unknown): unknown {
  return typeof item === "string" && item.startsWith(MARK) ? BigInt(item.slice(MARK.length)) : item;
}

/** For wampy: messages of the router, whose values keep their digits. */
export const serializer = {
  protocol: "json",
  isBinary: false,
  encode: (data: unknown): string => stringify(data),
  decode: (data: string | ArrayBuffer | Uint8Array): unknown => parse(data as string),
};
