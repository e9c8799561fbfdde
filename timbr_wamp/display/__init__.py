"""Status cards and progress bars that update in place, in notebooks and terminals.

This package imports neither machine nor client: callers pass functions that return the status or
the progress.
"""

from timbr_wamp.display.bars import BarKind
from timbr_wamp.display.live_status import LiveStatus, Screen
from timbr_wamp.display.progress import progress_bar, show_progress
from timbr_wamp.display.screens import display_status

__all__ = ["BarKind", "LiveStatus", "Screen", "display_status", "progress_bar", "show_progress"]
