"""The verbs of ``%wamp``: one method per verb, which returns the value that the cell shows."""

from __future__ import annotations

import builtins
import getpass
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from IPython.core.error import StdinNotImplementedError, UsageError

from timbr_wamp import plugins
from timbr_wamp.client.functions import is_reference
from timbr_wamp.contract import FunctionRef, Policy, Record, RevisionInfo
from timbr_wamp.contract.policy_syntax import parse_options, parse_policy
from timbr_wamp.errors import (
    AmbiguousKernel,
    InvalidArgument,
    InvalidSource,
    TimbrError,
    UnknownKernel,
    counted,
    did_you_mean,
)
from timbr_wamp.faces.cards import policy_text
from timbr_wamp.faces.kernels import restart_text
from timbr_wamp.faces.plot import Plot
from timbr_wamp.faces.shared import Shared
from timbr_wamp.faces.tables import ErrorGroups, ErrorRows, Oids, RecordRows, Revisions, SlotInfos
from timbr_wamp.faces.tap import Tap
from timbr_wamp.faces.trials import TrialReport
from timbr_wamp.literals import JSON_NAMES, json_value
from timbr_wamp.magic import views
from timbr_wamp.magic.callbacks import CallbackSubscription
from timbr_wamp.magic.commands import MACHINE, REPLACED, VERBS
from timbr_wamp.magic.completion import callables
from timbr_wamp.magic.failures import shortened, whole_traceback
from timbr_wamp.magic.parser import Command, parser_of
from timbr_wamp.magic.remote_cell import run_cell
from timbr_wamp.magic.shell_state import ShellState
from timbr_wamp.names import DEFAULT_MACHINE, KERNEL_PREFIX

if TYPE_CHECKING:
    from timbr_wamp.client import Client, RemoteMachine

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

Namespace: TypeAlias = dict[str, Any]
F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")


def _takes_code(method: F) -> F:
    """Mark a verb whose first arguments are Python text and the namespace for it."""
    method.takes_code = True  # type: ignore[attr-defined]
    return method


class Verbs:
    """The verbs of one shell. Shell's thread only."""

    def __init__(self, shell: Any, state: ShellState) -> None:
        self._shell, self._state = shell, state

    def run(self, command: Command, cell: str | None, namespace: Namespace, *, as_juno: bool = False) -> object:
        """Carry out a command; ``cell`` is the text below a cell magic.

        ``as_juno``: it was given under juno-magic's name, so callbacks are called as juno-magic did.

        Raises:
            UsageError: invalid arguments.
            TimbrError: the command failed.
        """
        if command.verb in REPLACED:
            raise UsageError(REPLACED[command.verb])
        arguments = dict(command.arguments)
        method: Callable[..., object] = getattr(self, f"verb_{command.verb}")
        if getattr(method, "takes_code", False):
            code = "\n".join(part for part in (command.code, cell or "") if part.strip())
            if not code:
                raise UsageError(f"the Python text is missing; see `%wamp help {command.verb}`")
            return method(code, namespace, **arguments)
        if cell is not None:
            raise UsageError(f"%%wamp {command.verb} takes no cell; use %wamp {command.verb}")
        if command.verb == "subscribe":
            arguments |= {"namespace": namespace, "as_juno": as_juno}
        return method(**arguments)

    # --- connection ---------------------------------------------------------------------------

    def verb_token(self, token: str | None) -> views.Text:
        if token is None:
            try:
                token = getpass.getpass("token (<name>.<secret>): ")
            except (StdinNotImplementedError, EOFError):
                raise UsageError("cannot prompt for a token here; set TIMBR_WAMP_TOKEN in the environment") from None
        name = self._state.keep_token(token.strip())
        return views.Text(f"stored token {name!r} for the next `%wamp connect`")

    def verb_connect(self, url: str | None, token: str | None, realm: str | None, reconnect: bool) -> views.Facts:
        self._state.connect(url, token, realm, again=reconnect)
        with suppress(UnknownKernel, AmbiguousKernel):  # the result shows that none is selected
            self._state.kernel()
        return self._connection()

    def verb_disconnect(self) -> views.Text:
        return views.Text("disconnected" if self._state.disconnect() else "was not connected")

    def verb_list(self, details: bool, raw: bool) -> object:
        kernels = self._state.open_client().kernels()
        if raw:
            return [f"{KERNEL_PREFIX}.{info.kernel_id}" for info in kernels]
        return views.Kernels(kernels) if details else kernels

    def verb_select(self, kernel: str | None, machine: str | None) -> views.Facts:
        chosen = self._state.select(kernel, machine)
        return views.kernel_facts(chosen.info())

    def verb_status(self) -> views.StatusView:
        info = machine = problem = None
        if self._state.client is not None:
            try:
                info = self._state.kernel().info()
                machine = self._state.machine().status
            except TimbrError as error:
                problem = str(error)
        subscriptions: dict[str, object] = {"subscriptions": list(self._state.subscriptions)}
        return views.StatusView(self._connection(), info, machine, problem, views.Facts("callbacks", subscriptions))

    def _connection(self) -> views.Facts:
        client: Client | None = self._state.client
        if client is None:
            return views.Facts("not connected; use `%wamp connect`", {})
        selected = self._state.selected
        kernel = f"{selected.name} ({selected.id})" if selected else "none; `%wamp list`, `%wamp select <name>`"
        facts: dict[str, object] = {"url": client.url, "authid": client.authid, "role": client.role, "kernel": kernel}
        return views.Facts("connected" if client.connected else "connection lost; reconnecting", facts)

    def verb_debug(self, what: str) -> views.Text:
        error = getattr(sys, "last_value", None)  # kept by IPython
        if error is None:
            raise UsageError("there was no error yet")
        return views.Text(whole_traceback(self._shell, error))

    # --- this notebook ------------------------------------------------------------------------

    def verb_share(self, name: str | None, role: str | None, up: bool) -> object:
        share: Any = plugins.load(plugins.FACES, "share")
        shared: Shared = share(name=name, role=role, start_router=up)
        return replace(shared, selection=self._selection_after(shared))

    def _selection_after(self, shared: Shared) -> str:
        """Return which kernel the other verbs go to after a share; without a connection the first of them selects."""
        chosen = None
        if self._state.client is not None:
            with suppress(TimbrError):  # it is on another router, where there is no other kernel, or several
                chosen = self._state.kernel()
        if self._state.client is None or (chosen is not None and chosen.id == shared.kernel_id):
            one = shared.machines if len(shared.machines) == 1 else [m for m in shared.machines if m == DEFAULT_MACHINE]
            target = views.target_text(shared.name, one[0]) if one else shared.name
            return f"the verbs of %wamp go to {target}; `%wamp select` chooses another kernel"
        elsewhere = "no kernel" if chosen is None else f"{chosen.name}, as before"
        return f"the verbs of %wamp go to {elsewhere}; `%wamp select {shared.name}` chooses this one"

    def verb_unshare(self) -> views.Text:
        unshare: Any = plugins.load(plugins.FACES, "unshare")
        return views.Text("taken off the router; its machines go on" if unshare() else "was not shared")

    # --- callbacks ----------------------------------------------------------------------------

    def verb_subscribe(self, topic: str, callback: str, namespace: Namespace, as_juno: bool) -> CallbackSubscription:
        user_ns = self._shell.user_ns

        def find() -> Callable[..., object]:
            found = _lookup(callback, user_ns) or _lookup(callback, namespace)
            if not callable(found):
                near = did_you_mean(callback, callables({**namespace, **user_ns}))
                text = f"{callback!r} is not a function here{near}"
                raise UsageError(text if near else f"{text}; define it first, then subscribe it by name")
            return cast("Callable[..., object]", found)

        find()
        subscription = CallbackSubscription(self._shell, topic, callback, find)
        self._state.subscribe(subscription, one_argument=as_juno)
        return subscription

    def verb_unsubscribe(self, topic: str | None, callback: str | None) -> views.Text:
        ended = self._state.unsubscribe(topic, callback)
        if not ended and topic is not None:
            known = (
                ", ".join(f"{subscription.topic} {subscription.callback}" for subscription in self._state.subscriptions)
                or "none"
            )
            raise UsageError(f"no such subscription; subscriptions: {known}")
        return views.Text(f"{counted(len(ended), 'subscription')} ended")

    # --- kernel -------------------------------------------------------------------------------

    def verb_interrupt(self) -> views.Text:
        kernel = self._state.kernel()
        kernel.interrupt()
        return views.Text(f"interrupted {kernel.name} ({kernel.id})")

    def verb_restart(self) -> views.Text:
        kernel = self._state.kernel()
        before = kernel.info()
        return views.Text(restart_text(before, kernel.restart()))

    @_takes_code
    def verb_execute(self, code: str, namespace: Namespace, kernel: str | None, timeout_s: float | None) -> None:
        target = self._state.kernel() if kernel is None else self._state.find(kernel)
        run_cell(self._shell, target, code, timeout_s)

    # --- machine ------------------------------------------------------------------------------

    def _target(self, machine: RemoteMachine) -> str:
        """Return which machine a verb has changed: what answers of such verbs begin with."""
        return views.target_text(self._state.kernel().name, machine.name)

    def verb_slots(self) -> SlotInfos:
        return self._state.machine().slots

    @_takes_code
    def verb_set(
        self,
        code: str,
        namespace: Namespace,
        slot: int | str,
        name: str | None,
        policy: Policy | None,
        reason: str | None,
    ) -> views.Facts:
        machine = self._state.machine()
        function = _function(code, namespace)
        with _near_names(code, namespace):
            revision = machine.set(slot, function, name=name, policy=policy, reason=reason)
        return views.revision_facts(revision, self._target(machine))

    @_takes_code
    def verb_trial(
        self, code: str, namespace: Namespace, slot: int | str, last: int | None, group: str | None
    ) -> TrialReport[RevisionInfo]:
        machine = self._state.machine()
        with _near_names(code, namespace):
            return machine.trial(slot, _function(code, namespace), last, group=group)

    def verb_policy(self, slot: int | str, words: list[str] | None) -> views.Facts | views.Text:
        said = _read("policy", parse_policy, words) if words else None
        machine = self._state.machine()
        which = None if slot == MACHINE else slot
        if not words:
            return views.Text(policy_text(machine.policy_of(which)))
        return views.revision_facts(machine.set_policy(which, said), self._target(machine))

    def verb_handler(self, name: str | None, options: list[str] | None) -> views.Text:
        said = _read("handler", parse_options, options or [])
        machine = self._state.machine()
        if name is None:
            return views.Text(machine.handler)
        return views.Told(machine.set_handler(name, said).handler, self._target(machine))

    def verb_delete(self, slot: int | str) -> views.Text:
        machine = self._state.machine()
        del machine[slot]
        return views.Told(f"slot {slot} is unset", self._target(machine))

    def verb_revisions(self) -> Revisions:
        return self._state.machine().revisions

    def verb_rollback(self, number: int, reason: str | None) -> views.Facts:
        machine = self._state.machine()
        return views.revision_facts(machine.rollback(number, reason=reason), self._target(machine))

    def verb_compare(self, a: int, b: int, last: int | None) -> views.StructView:
        return views.StructView(self._state.machine().compare(a, b, last))

    @_takes_code
    def verb_put(self, code: str, namespace: Namespace, oid: str | None) -> views.Text:
        message = _value(code, namespace)
        machine = self._state.machine()
        return views.Told(machine.put(message, oid=oid), self._target(machine))

    @_takes_code
    def verb_call(self, code: str, namespace: Namespace) -> Record:
        return self._state.machine()(_value(code, namespace))

    def verb_start(self) -> views.StructView:
        machine = self._state.machine()
        return views.StructView(machine.start(), self._target(machine))

    def verb_pause(self) -> views.StructView:
        machine = self._state.machine()
        return views.StructView(machine.pause(), self._target(machine))

    def verb_resume(self) -> views.StructView:
        machine = self._state.machine()
        return views.StructView(machine.resume(), self._target(machine))

    def verb_stop(self, drain: bool, timeout_s: float) -> views.StructView:
        machine = self._state.machine()
        return views.StructView(machine.stop(drain=drain, timeout=timeout_s), self._target(machine))

    def verb_progress(self, wait: bool, timeout_s: float | None) -> views.StructView:
        machine = self._state.machine()
        if wait:
            machine.wait(timeout_s, progress=True)
        return views.StructView(machine.progress())

    def verb_tap(self, label: int | str, n: int) -> Tap:
        return self._state.machine().tap(label, n)

    def verb_plot(self) -> Plot:
        return self._state.machine().plot()

    def verb_records(self, n: int) -> RecordRows:
        return self._state.machine().recent(n)

    def verb_errors(self, n: int) -> ErrorRows:
        return ErrorRows(self._state.machine().errors[-n:])

    def verb_groups(self, n: int) -> ErrorGroups:
        return ErrorGroups(self._state.machine().error_groups[:n])

    def verb_retry(self, oids: list[str] | None, group: str | None, canary: int | None) -> views.ToldOids:
        machine = self._state.machine()
        oids = machine.retry_errors(oids or None, group=group, canary=canary or 0)
        return views.ToldOids(oids, self._target(machine))

    def verb_lookup(self, oid: str) -> views.StructView:
        return views.StructView(self._state.machine().lookup(oid))

    def verb_replay(self, oids: list[str] | None, group: str | None, trial: bool, revision: int | None) -> object:
        if not oids and group is None:
            raise UsageError("say which messages: ids, or --group")
        if revision is not None and not trial:
            raise UsageError("--revision needs --trial: a record is made by the present slots alone")
        into: Literal["records", "trial"] = "trial" if trial else "records"
        number: Literal["current"] | int = "current" if revision is None else revision
        machine = self._state.machine()
        replayed = machine.replay(oids or None, group=group, into=into, revision=number)
        return views.ToldOids(replayed, self._target(machine)) if isinstance(replayed, Oids) else replayed


def _function(code: str, namespace: Namespace) -> object:
    """Return the function that a verb's Python text names or makes: of this notebook, a reference, or the text."""
    text = code.strip()
    if _DOTTED.fullmatch(text) and (found := _lookup(text, namespace)) is not None:
        return found
    return FunctionRef(kind="reference", text=text) if is_reference(text) else code


@contextmanager
def _near_names(code: str, namespace: Namespace) -> Iterator[None]:
    """Add the names that may be meant to the error about a name that is none."""
    try:
        yield
    except InvalidSource as error:
        text = code.strip()
        near = did_you_mean(text, callables(namespace)) if _DOTTED.fullmatch(text) else ""
        raise InvalidSource(f"{error.problem}{near}", error.line, error.text) if near else error from None


def _lookup(dotted: str, namespace: Mapping[str, Any]) -> Any:
    """Return the value of a name, possibly dotted, in a namespace; None if it does not exist."""
    if not _DOTTED.fullmatch(dotted):
        return None
    first, *rest = dotted.split(".")
    found = namespace.get(first, getattr(builtins, first, None))
    for name in rest:
        found = getattr(found, name, None)
    return found


def _read(verb: str, read: Callable[[list[str]], T], words: list[str]) -> T:
    """Parse words; raise a usage error if they are invalid."""
    try:
        return read(words)
    except InvalidArgument as error:
        raise UsageError(f"{error}\n{parser_of(VERBS[verb]).format_usage().rstrip()}") from None


def _value(code: str, namespace: Namespace) -> object:
    """Return the value of JSON, or of an expression in a namespace; what the expression raises is shown in brief."""
    with suppress(ValueError, RecursionError):
        return json_value(code)
    try:
        compiled = compile(code.strip(), "<%wamp>", "eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = error.args[0] if error.args else type(error).__name__
        text = f"neither JSON nor a Python expression: {problem}: {code.strip()[:80]}"
        raise UsageError(f"{text}; a text needs quotes") from None
    try:
        return eval(compiled, {**JSON_NAMES, **namespace})
    except Exception as error:  # the user's own
        raise shortened(error) from None
