"""Why a process ended, as it says itself.

A log's last line is seldom the reason: other threads, warnings and tracebacks write there, too. So who starts a
process names a file in its environment, and the process writes there the error that ends it, before it ends.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from timbr_wamp import runtime
from timbr_wamp.errors import TimbrError, from_wire, to_wire

#: Names the file. A process's own children do not inherit it: see `timbr_wamp.processes.spawn`.
VARIABLE = "TIMBR_WAMP_REASON_FILE"


def is_supervised() -> bool:
    """Return whether another process supervises this one, and no person reads what it prints."""
    return bool(os.environ.get(VARIABLE))


def hand_over(error: BaseException) -> None:
    """Tell who supervises this process, if anybody does, that it ends because of ``error``."""
    if path := os.environ.get(VARIABLE):
        with suppress(OSError):  # a full disk: the exit status still tells that it failed
            runtime.replace_file(Path(path), json.dumps(to_wire(error)).encode())


def handed_over(path: Path | None) -> TimbrError | None:
    """Return the error that the process of that file handed over; None when it said nothing."""
    if path is None:
        return None
    try:
        uri, args, kwargs = json.loads(path.read_bytes())
        return from_wire(uri, args, kwargs)
    except (OSError, ValueError, TypeError):  # none, or not one of ours
        return None


__all__ = ["VARIABLE", "hand_over", "handed_over", "is_supervised"]
