/** `mount(element, api)`: the display for any `Api`, without WAMP. */

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { kernelOf, light } from "./model";
import { Charts } from "./parts/charts";
import { Counters } from "./parts/counters";
import { Errors } from "./parts/errors";
import { Events } from "./parts/events";
import { Head } from "./parts/head";
import { Kernels } from "./parts/kernels";
import { Records } from "./parts/records";
import { Slots } from "./parts/slots";
import type { Api, View } from "./seam";
import "./style.css";

export type { Api, Message, View } from "./seam";

/** Shortest interval between two draws. */
const DRAW_INTERVAL_MS = 100;
/** Longest interval between two draws, so that charts and state light are updated without new messages. */
const TICK_MS = 1000;

/** Show `api` in `element`; the returned function removes it. */
export function mount(element: HTMLElement, api: Api): () => void {
  element.classList.add("timbr");
  render(<Page api={api} />, element);
  return () => render(null, element);
}

function useView(api: Api): { view: View; now_ms: number } {
  const [shown, setShown] = useState({ view: api.get(), now_ms: Date.now() });
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const draw = (): void => {
      timer = undefined;
      setShown({ view: api.get(), now_ms: Date.now() });
    };
    const off = api.onChange(() => (timer ??= setTimeout(draw, DRAW_INTERVAL_MS)));
    const ticks = setInterval(draw, TICK_MS);
    draw();
    return () => {
      off();
      clearTimeout(timer);
      clearInterval(ticks);
    };
  }, [api]);
  return shown;
}

function Page({ api }: { api: Api }) {
  const { view, now_ms } = useView(api);
  return (
    <>
      <Banner view={view} />
      <div class="layout">
        <Kernels api={api} view={view} />
        <main class={light(view, now_ms) === "unknown" ? "stale" : ""}>
          <Machine api={api} view={view} now_ms={now_ms} />
        </main>
      </div>
    </>
  );
}

function Banner({ view }: { view: View }) {
  const { state, reason, authid, role } = view.link;
  return (
    <div class="top">
      <h1>timbr_wamp</h1>
      <div role="status" aria-live="polite" class={`link link-${state}`} data-testid="link">
        {state === "open" && `${authid} · ${role}`}
        {state === "connecting" && "Connecting to the router…"}
        {state === "lost" && `No connection to the router (${reason}). Reconnecting…`}
        {state === "rejected" && "The router did not accept the token."}
      </div>
    </div>
  );
}

function Machine({ api, view, now_ms }: { api: Api; view: View; now_ms: number }) {
  const { selected, machine, link } = view;
  if (!selected || !machine) return <p class="muted empty">No kernel is running.</p>;
  const key = `${selected.kernel_id}.${selected.machine}`;
  const kernel = kernelOf(view);
  if (!machine.status && kernel?.machines.length === 0)
    return <p class="muted empty">{`The kernel ${kernel.name} has no machine${kernel.reason ? `: ${kernel.reason}` : "."}`}</p>;
  return (
    <div key={key} class="machine">
      <Head api={api} view={view} now_ms={now_ms} />
      {machine.status && (
        <>
          <Counters status={machine.status} points={machine.points} />
          <Charts points={machine.points} now_ms={now_ms} />
          <Slots api={api} role={link.role} status={machine.status} slots={machine.slots} />
          <div class="pair">
            <Records api={api} machine={machine} />
            <Errors api={api} role={link.role} machine={machine} />
          </div>
          <Events events={machine.events} />
        </>
      )}
    </div>
  );
}
