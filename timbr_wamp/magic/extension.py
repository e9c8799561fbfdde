"""Register ``%wamp`` in a shell and unload it; and the magic function itself."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from IPython.core.error import UsageError
from IPython.core.magic import needs_local_scope, no_var_expand
from IPython.utils.text import DollarFormatter

from timbr_wamp.errors import TimbrError, described
from timbr_wamp.magic.completion import callables, matcher_for
from timbr_wamp.magic.failures import shortened
from timbr_wamp.magic.parser import HelpRequested, parse
from timbr_wamp.magic.shell_state import ShellState
from timbr_wamp.magic.verbs import Verbs
from timbr_wamp.magic.views import Text

#: The magic's name, and its name in juno-magic. Each is a method of `Wamp`.
NAMES = ("wamp", "juno")

_loaded: WeakKeyDictionary[Any, Wamp] = WeakKeyDictionary()


def load(shell: Any) -> None:
    """Add the magics and their completion to a shell. Idempotent."""
    if shell in _loaded:
        return
    wamp = _loaded[shell] = Wamp(shell)
    for name in NAMES:
        shell.register_magic_function(getattr(wamp, name), "line_cell", name)
    shell.Completer.custom_matchers.append(wamp.matcher)


def unload(shell: Any) -> None:
    """Remove what `load` added, end subscriptions and close the client. Idempotent."""
    wamp = _loaded.pop(shell, None)
    if wamp is None:
        return
    for name in NAMES:
        for kind in ("line", "cell"):
            shell.magics_manager.magics[kind].pop(name, None)
        vars(shell.magics_manager.user_magics).pop(name, None)
    shell.Completer.custom_matchers.remove(wamp.matcher)
    wamp.state.disconnect()


class Wamp:
    """The magic object of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.state = ShellState()
        self._verbs = Verbs(shell, self.state)
        self.matcher = matcher_for(
            {
                "kernel": self.state.kernel_names,
                "slot": self.state.slot_names,
                "name": lambda: callables(shell.user_ns),
            }
        )

    @no_var_expand  # type: ignore[untyped-decorator]  # IPython would expand {"dicts": 1}; `parse` expands arguments only
    @needs_local_scope  # type: ignore[untyped-decorator]
    def wamp(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> object:
        """Control kernels and machines on a WAMP router.

        Start with ``%wamp connect``, then ``%wamp list`` and ``%wamp select <name>``. A cell that
        starts with ``%%wamp`` runs on the selected kernel. ``%wamp help`` lists all verbs, ``%wamp
        help <verb>`` explains one.
        """
        return self._run(line, cell, local_ns)

    @no_var_expand  # type: ignore[untyped-decorator]
    @needs_local_scope  # type: ignore[untyped-decorator]
    def juno(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> object:
        """Do what ``%wamp`` does, under its name in juno-magic.

        ``%juno subscribe`` calls back with one argument ``[oid, [in, f0, …]]``, as juno-magic did.
        """
        return self._run(line, cell, local_ns, as_juno=True)

    def _run(self, line: str, cell: str | None, local_ns: dict[str, Any] | None, *, as_juno: bool = False) -> object:
        namespace = {**self._shell.user_ns, **(local_ns or {})}
        try:
            command = parse(line, cell=cell is not None, expand=lambda text: _expanded(text, namespace))
            return self._verbs.run(command, cell, namespace, as_juno=as_juno)
        except HelpRequested as wanted:
            return Text(wanted.text)
        except TimbrError as error:
            raise shortened(error) from None


def _expanded(text: str, namespace: dict[str, Any]) -> str:
    """Replace ``$name`` and ``{expression}`` with their values in the notebook."""
    try:
        return str(DollarFormatter().vformat(text, (), namespace))
    except Exception as error:  # evaluates a user's expression
        raise UsageError(f"{text.strip()}: {described(error)}") from None
