/** Entry of the page that the router serves: find the token, connect, and show the machine. */

import { askForToken } from "./login";
import { mount } from "./mount";
import { forgetToken, keepToken, looksLikeToken, takeToken } from "./token";
import { WampApi } from "./wamp";

const REALM = "timbr";

function routerUrl(): string {
  return `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/ws`;
}

function show(element: HTMLElement, token: string): void {
  const api = new WampApi({ url: routerUrl(), realm: REALM, token });
  const unmount = mount(element, api);
  const off = api.onChange(() => {
    const { state, reason } = api.get().link;
    if (state !== "rejected") return;
    off();
    unmount();
    api.close();
    forgetToken();
    ask(element, `The router did not accept that token: ${reason ?? "no reason given"}`);
  });
}

function ask(element: HTMLElement, problem: string | null): void {
  const close = askForToken(element, problem, (token) => {
    close();
    keepToken(token);
    show(element, token);
  });
}

const root = document.getElementById("page") as HTMLElement;
const token = takeToken();
if (token !== null && looksLikeToken(token)) show(root, token);
else ask(root, token === null ? null : "The address contains an invalid token.");

// opening another link with a token in this tab changes the fragment only
addEventListener("hashchange", () => {
  if (takeToken() !== token) location.reload();
});
