/** The list of kernels on the router, with the selection of a machine. */

import type { KernelInfo } from "../contract";
import { isThere } from "../model";
import type { Api, View } from "../seam";

const STATE_TEXT: Record<KernelInfo["state"], string> = {
  starting: "starting",
  idle: "idle",
  busy: "busy: a cell runs",
  restarting: "restarting",
  dead: "dead",
  offline: "offline",
};

export function Kernels({ api, view }: { api: Api; view: View }) {
  return (
    <nav class="kernels" aria-label="Kernels">
      <h2>Kernels</h2>
      {view.kernels.length === 0 && (
        <p class="muted">
          {view.link.state === "open" ? "None is on the router. Start one with “timbr-wamp kernel”." : "Not known yet."}
        </p>
      )}
      <ul>
        {view.kernels.map((kernel) => (
          <Kernel key={kernel.kernel_id} api={api} view={view} kernel={kernel} />
        ))}
      </ul>
    </nav>
  );
}

function Kernel({ api, view, kernel }: { api: Api; view: View; kernel: KernelInfo }) {
  const stale = view.link.state !== "open";
  const machines = kernel.machines.length ? kernel.machines : [null];
  return (
    <li class="kernel">
      <div class="kernel-name">
        <strong title={kernel.kernel_id}>{kernel.name}</strong>
        <span class={`tag kernel-${stale ? "unknown" : kernel.state}`} title={kernel.reason ?? undefined}>
          {stale ? "not known" : STATE_TEXT[kernel.state]}
        </span>
      </div>
      <div class="muted small">
        {kernel.host} · {kernel.language} {kernel.language_version}
        {kernel.restarts > 0 && ` · restarted ${kernel.restarts}×`}
      </div>
      <div class="machines">
        {machines.map((brief) => {
          const machine = brief?.name ?? "machine";
          const current = view.selected?.kernel_id === kernel.kernel_id && view.selected.machine === machine;
          return (
            <button
              key={machine}
              type="button"
              class="choose"
              aria-current={current ? "true" : undefined}
              aria-label={`${brief ? machine : "No machine"} of kernel ${kernel.name}`}
              onClick={() => void api.send({ kind: "select", kernel_id: kernel.kernel_id, machine })}
            >
              {brief ? machine : "no machine"}
              {brief && !stale && isThere(kernel) && <span class="muted"> {brief.state}</span>}
            </button>
          );
        })}
      </div>
    </li>
  );
}
