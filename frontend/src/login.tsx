/** The login form for a token. */

import { render } from "preact";
import { useState } from "preact/hooks";
import { Problem } from "./parts/common";
import { looksLikeToken } from "./token";
import "./style.css";

/** Show the login form in `element`; `problem` is the reason why the previous token was refused. */
export function askForToken(element: HTMLElement, problem: string | null, onToken: (token: string) => void): () => void {
  element.classList.add("timbr");
  render(<Login problem={problem} onToken={onToken} />, element);
  return () => render(null, element);
}

function Login(props: { problem: string | null; onToken: (token: string) => void }) {
  const [problem, setProblem] = useState(props.problem);
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const text = String(new FormData(event.currentTarget as HTMLFormElement).get("token") ?? "").trim();
    if (looksLikeToken(text)) props.onToken(text);
    else setProblem("A token has the form name.secret; the name has lower-case letters, digits and “_”.");
  };
  return (
    <main class="login">
      <h1>timbr_wamp</h1>
      <form onSubmit={submit}>
        <label for="token">Token</label>
        <input
          id="token"
          name="token"
          type="password"
          autocomplete="off"
          spellcheck={false}
          autofocus
          required
          aria-invalid={problem !== null}
          aria-describedby="token-problem token-help"
        />
        <Problem text={problem} id="token-problem" />
        <button type="submit" class="primary">
          Connect
        </button>
        <p id="token-help" class="muted small">
          “timbr-wamp up” prints the page’s address with a token. Create others with{" "}
          <code>timbr-wamp token create --role viewer --name &lt;name&gt;</code>.
        </p>
      </form>
    </main>
  );
}
