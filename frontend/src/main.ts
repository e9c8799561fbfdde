/** Entry of the page that the router serves: find the token, connect, and show the machine. */

import { askForToken } from "./login";
import { mount } from "./mount";
import { forgetToken, keepToken, looksLikeToken, takeFragment } from "./token";
import { WampApi } from "./wamp";

const DEFAULT_REALM = "timbr";

/** The realm of the router that serves this page. */
async function findRealm(): Promise<string> {
  try {
    const { realm } = (await (await fetch("/node", { cache: "no-store" })).json()) as { realm?: unknown };
    if (typeof realm === "string" && realm !== "") return realm;
  } catch {
    // something else serves the page, or an older router
  }
  return DEFAULT_REALM;
}

function routerUrl(): string {
  return `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/ws`;
}

function show(element: HTMLElement, token: string, realm: string): void {
  const api = new WampApi({ url: routerUrl(), realm, token, kernel_id: opened.kernel_id });
  const unmount = mount(element, api);
  const off = api.onChange(() => {
    const { state, reason } = api.get().link;
    if (state !== "rejected") return;
    off();
    unmount();
    api.close();
    forgetToken();
    ask(element, `The router did not accept that token: ${reason ?? "no reason given"}`, realm);
  });
}

function ask(element: HTMLElement, problem: string | null, realm: string): void {
  const close = askForToken(element, problem, (token) => {
    close();
    keepToken(token);
    show(element, token, realm);
  });
}

const root = document.getElementById("page") as HTMLElement;
const opened = takeFragment();
const { token } = opened;
void findRealm().then((realm) => {
  if (token !== null && looksLikeToken(token)) show(root, token, realm);
  else ask(root, token === null ? null : "The address contains an invalid token.", realm);
});

// opening another link in this tab changes the fragment only
addEventListener("hashchange", () => {
  const now = takeFragment();
  if (now.token !== token || now.kernel_id !== opened.kernel_id) location.reload();
});
