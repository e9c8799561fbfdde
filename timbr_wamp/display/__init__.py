"""Status cards and progress bars that are drawn again, in notebooks and terminals.

This room knows no machine and no client: it is given functions that it asks.
"""

from timbr_wamp.display.bars import BarKind
from timbr_wamp.display.live_status import LiveStatus, Screen
from timbr_wamp.display.progress import progress_bar, show_progress
from timbr_wamp.display.screens import display_status

__all__ = ["BarKind", "LiveStatus", "Screen", "display_status", "progress_bar", "show_progress"]
