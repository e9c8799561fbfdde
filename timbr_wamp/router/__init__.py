"""Manage the router: Crossbar.io in an environment of its own, its node folder and its tokens.

The code that runs inside the router (authenticator, authorizer, presence) is in ``router-config/``.
This package creates the node folder from it and starts and stops the router. Linux and macOS.
"""

from __future__ import annotations

from timbr_wamp.names import ROLES
from timbr_wamp.router.environment import find_crossbar, install_crossbar, share_environment
from timbr_wamp.router.node import Router, free_port, stop_node
from timbr_wamp.router.tokens import TokenInfo, TokenStore

__all__ = [
    "ROLES",
    "Router",
    "TokenInfo",
    "TokenStore",
    "find_crossbar",
    "free_port",
    "install_crossbar",
    "share_environment",
    "stop_node",
]
