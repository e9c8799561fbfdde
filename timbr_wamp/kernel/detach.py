"""Make ``exit`` and ``quit`` keep the kernel running.

IPython binds one autocall object to both names (`IPython.core.autocall.ZMQExitAutocall`). When called,
it tells the frontend to exit, and the kernel's loop to stop unless ``keep_kernel`` is true. Here
``keep_kernel`` is always true. To end the kernel use ``timbr-wamp``, ``K.shutdown``, or the frontend's
"shut down" command.
"""

from __future__ import annotations

from typing import Any

from IPython.core.autocall import ZMQExitAutocall

NAMES = ("exit", "quit")


class DetachAutocall(ZMQExitAutocall):  # type: ignore[misc]  # IPython has no type hints
    """An ``exit`` that ends the attached console and never the kernel."""

    def __call__(self, keep_kernel: bool = True) -> None:
        super().__call__(keep_kernel=True)


def keep_kernel_on_exit(shell: Any) -> None:
    """Replace ``exit`` and ``quit`` with `DetachAutocall`."""
    _replace(shell, DetachAutocall(shell))


def end_kernel_on_exit(shell: Any) -> None:
    """Restore IPython's own ``exit`` and ``quit``."""
    _replace(shell, shell.exiter)


def _replace(shell: Any, exiter: object) -> None:
    # also in the hidden names, else %who and %reset would treat it as a variable of the user
    for name in NAMES:
        shell.user_ns[name] = exiter
        shell.user_ns_hidden[name] = exiter
