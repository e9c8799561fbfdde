/** Token and kernel: moved from the address bar's fragment to this tab's session storage. */

const KEY = "timbr_wamp.token";
const KERNEL_KEY = "timbr_wamp.kernel";

/** What a link opens: with which token, and which kernel first. */
export interface Opened {
  token: string | null;
  kernel_id: string | null;
}

/** Move `#token=…&kernel=…` from the address bar to the session storage. Return what is stored. */
export function takeFragment(): Opened {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  const kernel_id = fragment.get("kernel");
  if (token !== null) keepToken(token);
  if (kernel_id !== null) sessionStorage.setItem(KERNEL_KEY, kernel_id);
  if (token !== null || kernel_id !== null) history.replaceState(null, "", location.pathname + location.search);
  return { token: sessionStorage.getItem(KEY), kernel_id: sessionStorage.getItem(KERNEL_KEY) };
}

export function keepToken(token: string): void {
  sessionStorage.setItem(KEY, token.trim());
}

export function forgetToken(): void {
  sessionStorage.removeItem(KEY);
}

/** Whether the text has the form `<name>.<secret>`. */
export function looksLikeToken(text: string): boolean {
  return /^[a-z0-9_]{1,32}\.\S+$/.test(text.trim());
}
