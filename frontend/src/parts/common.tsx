/** Small pieces that several parts share. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { count, cut } from "../format";
import { Failure } from "../seam";

export function Panel(props: { title: string; aside?: ComponentChildren; class?: string; children: ComponentChildren }) {
  const id = `panel-${props.title.toLowerCase().replace(/\W+/g, "-")}`;
  return (
    <section class={`panel ${props.class ?? ""}`} aria-labelledby={id}>
      <header>
        <h3 id={id}>{props.title}</h3>
        <div class="aside">{props.aside}</div>
      </header>
      {props.children}
    </section>
  );
}

const SHOWN_CHARACTERS = 1200;

/** A text; a long one is cut and can be expanded. */
export function LongText(props: { text: string; class?: string }) {
  const [all, setAll] = useState(false);
  const long = props.text.length > SHOWN_CHARACTERS;
  return (
    <>
      <pre class={props.class} tabIndex={0}>
        {all ? props.text : cut(props.text, SHOWN_CHARACTERS)}
      </pre>
      {long && (
        <button type="button" class="quiet" onClick={() => setAll(!all)}>
          {all ? "Show less" : `Show all ${count(props.text.length)} characters`}
        </button>
      )}
    </>
  );
}

/** Hook that runs a command, with its state: in progress, and the error of the last one. */
export function useAction(): { busy: boolean; failure: string | null; run: (f: () => Promise<void>) => Promise<boolean> } {
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<string | null>(null);
  const run = async (f: () => Promise<void>): Promise<boolean> => {
    setBusy(true);
    setFailure(null);
    try {
      await f();
      return true;
    } catch (error) {
      setFailure(error instanceof Failure ? error.message : String(error));
      return false;
    } finally {
      setBusy(false);
    }
  };
  return { busy, failure, run };
}

export function Problem(props: { text: string | null; id?: string }) {
  return props.text === null ? null : (
    <p class="problem" role="alert" id={props.id}>
      {props.text}
    </p>
  );
}
