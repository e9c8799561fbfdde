"""Put classes of ours in the place of Crossbar.io's. Standard library only."""

from __future__ import annotations

from typing import Any


def replace_class(owner: Any, name: str, ours: type) -> None:
    """Set the class that a module or class calls ``name`` to ours, which is made from it. Idempotent.

    Raises:
        AttributeError, TypeError: this version of Crossbar.io has no such class; the router must not start then,
            because nothing would check what connections send.
    """
    theirs = getattr(owner, name)
    if not issubclass(ours, theirs):
        raise TypeError(f"{name} of {owner!r} is not what {ours.__name__} is made from")
    setattr(owner, name, ours)
