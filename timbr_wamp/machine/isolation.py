"""The rule for calling foreign code: hooks, sinks, callbacks, event handlers, journals.

Whatever foreign code raises, `SystemExit` and other exceptions beyond `Exception` included, is passed to a
callback that counts and logs it, and the machine continues. One exception is raised: a `KeyboardInterrupt` in
the main thread is the user's Ctrl-C. It is raised only once the work under way is complete, see `run_all`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from timbr_wamp.errors import is_users_interrupt


def call_isolated(
    function: Callable[..., object], *arguments: object, on_failure: Callable[[BaseException], object]
) -> None:
    """Call foreign code; what it raises is given to ``on_failure``.

    Raises:
        KeyboardInterrupt: the user's, see `is_users_interrupt`; ``on_failure`` was not called.
    """
    try:
        function(*arguments)
    except BaseException as error:
        if is_users_interrupt(error):
            raise
        on_failure(error)


def run_within(timeout_s: float, function: Callable[..., object], *arguments: object) -> bool:
    """Run foreign code in a daemon thread; return False when it has not ended after ``timeout_s``: it is left running.

    Raises:
        BaseException: what it raised in time.
    """
    raised = list[BaseException]()

    def run() -> None:
        call_isolated(function, *arguments, on_failure=raised.append)

    thread = threading.Thread(target=run, name="timbr within", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if raised:
        raise raised[0]
    return not thread.is_alive()


def run_all(steps: Iterable[Callable[[], object]]) -> None:
    """Run every step, also those after one that raised; then raise the first error.

    For steps that belong together: a Ctrl-C in one of them leaves none undone.
    """
    first: BaseException | None = None
    for step in steps:
        try:
            step()
        except BaseException as error:
            first = first or error
    if first is not None:
        raise first
