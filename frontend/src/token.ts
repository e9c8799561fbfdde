/** The token: from the address bar's fragment into this tab's session storage, and out of sight. */

const KEY = "timbr_wamp.token";

/** Take `#token=…` out of the address bar and keep it. Return the token kept, if any. */
export function takeToken(): string | null {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const given = fragment.get("token");
  if (given !== null) {
    keepToken(given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY);
}

export function keepToken(token: string): void {
  sessionStorage.setItem(KEY, token.trim());
}

export function forgetToken(): void {
  sessionStorage.removeItem(KEY);
}

/** `<name>.<secret>`, as `timbr-wamp token create` shows it. */
export function looksLikeToken(text: string): boolean {
  return /^[a-z0-9_]{1,32}\.\S+$/.test(text.trim());
}
