/** The token: moved from the address bar's fragment to this tab's session storage. */

const KEY = "timbr_wamp.token";

/** Move `#token=…` from the address bar to the session storage. Return the stored token, or null. */
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

/** Whether the text has the form `<name>.<secret>`. */
export function looksLikeToken(text: string): boolean {
  return /^[a-z0-9_]{1,32}\.\S+$/.test(text.trim());
}
