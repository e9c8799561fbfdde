"""The command ``timbr-wamp``: arguments → frozen settings → run.

Other rooms load inside the commands that need them, so that ``--help`` is quick.
"""

from timbr_wamp.cli.app import main, wampify

__all__ = ["main", "wampify"]
