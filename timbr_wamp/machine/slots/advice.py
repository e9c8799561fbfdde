"""What to assign in place of an object that cannot be called: an obvious method of it, or what it is good for.

Methods are looked up on the class, so no code of the object runs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from timbr_wamp.machine.slots.callables import MISSING, is_kind, of_class

#: Methods that make a value of a value, most telling first: of models, of transformers, of regular expressions,
#: of templates and codecs, of mappings.
METHODS = (
    "predict", "transform", "forward", "infer", "match", "search", "findall", "process", "evaluate", "encode", "decode",
    "render", "format_map", "lookup", "get",
)  # fmt: skip
#: Most methods that are named.
NAMED = 3


def advice_for(thing: object, slot: int) -> str | None:
    """Return what to assign in place of ``thing``, which is not callable; None where nothing is obvious."""
    kind = type(thing)

    def has(name: str) -> bool:
        return of_class(kind, name) is not MISSING

    if has("iloc") and has("loc"):
        return f"a table is looked up by a function: m[{slot}] = lambda key: table.loc[key]"
    if is_kind(thing, ModuleType):
        return "assign one of its functions"
    if is_kind(thing, list, tuple):
        return f"fill several slots with a slice: m[{slot}:{slot + 2}] = [f, g]"
    if has("__next__") or has("__anext__"):
        return f"what gives messages is a source: m.source = …; a slot wants a function, such as m[{slot}] = str"
    return None if is_kind(thing, bytes, bytearray, memoryview) else _methods(has)


def _methods(has: Callable[[str], bool]) -> str | None:
    found = [f".{name}" for name in METHODS if has(name)][:NAMED]
    if not found:
        return None
    return f"assign its method {found[0]}" if len(found) == 1 else f"assign one of its methods: {', '.join(found)}"
