"""The command ``timbr-wamp``: arguments → frozen settings → run.

Other packages are imported inside the commands that need them, so that ``--help`` is fast.
"""

from timbr_wamp.cli.app import main, wampify

__all__ = ["main", "wampify"]
