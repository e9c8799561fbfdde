"""The plain way through the slots: a revision written out as one straight Python function.

No loop, no lists of arguments; identity slots only name their bytes again. The first slot that
raises hands over to `timbr_wamp.machine.running.careful_pass`, which knows outcomes and policies. Only
for revisions without ``async def`` slots. Hooks around slots are written in where there are any, so that
they cost nothing where there are none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from timbr_wamp.machine.running.careful_pass import CarefulPass, KnownOutcome, Unawaited
from timbr_wamp.machine.slots.callables import is_unawaited
from timbr_wamp.values import NotPlain, plain_text, text_of

if TYPE_CHECKING:
    from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext

#: Values, texts, and where a slot raised the `CarefulPass` that is to be gone.
PassStart: TypeAlias = "tuple[list[Any], list[bytes], CarefulPass | tuple[()]]"

_HOOKED = ("pre_slot", "post_slot")


def compile_pass(revision: Plan, context: RunContext) -> Callable[[object, str], Any]:
    """Return ``run(message, oid)``, which runs a message through the revision's steps; see `PassStart`.

    For slots 0 and 2 of four, of which the second takes two values, the text is::

        def run(value, oid):
            text = text_of(value)
            try: v0 = f0(value)
            except BaseException as error: return failed(oid, 0, error, text, value)
            try: t0 = plain_text(v0)
            except NotPlain:
                if is_unawaited(v0): return failed(oid, 0, Unawaited(v0), text, value)
                t0 = text_of(v0)
            try: v2 = f2(v0, v0)
            except BaseException as error: return failed(oid, 1, error, text, value, v0, t0)
            ...
            return [value, v0, v0, v2, v2], [text, t0, t0, t2, t2], none
    """
    names: dict[str, Any] = {
        "__name__": "timbr_wamp.machine.pass", "text_of": text_of, "plain_text": plain_text,
        "NotPlain": NotPlain, "is_unawaited": is_unawaited, "Unawaited": Unawaited, "none": (),
        "failed": partial(_failed, revision, context),
        "pre": partial(context.hooks.call, "pre_slot"), "post": partial(context.hooks.call, "post_slot"),
    }  # fmt: skip
    pre, post = (bool(context.hooks.at(point)) for point in _HOOKED)
    values, texts = ["value"] * (revision.lead + 1), ["text"] * (revision.lead + 1)
    lines = ["def run(value, oid):", " text = text_of(value)"]
    made = ["text", "value"]
    for position, step in enumerate(revision.steps):
        number = step.slot.number
        names[f"f{number}"] = step.function
        arguments = ", ".join(_given_names(step, values, texts))
        if pre:
            lines.append(f" pre(oid, {number}, [{arguments}])")
        lines += [
            f" try: v{number} = f{number}({arguments})",
            f" except BaseException as error: return failed(oid, {position}, error, {', '.join(made)})",
            f" try: t{number} = plain_text(v{number})",
            " except NotPlain:",
            f"  if is_unawaited(v{number}):",
            f"   return failed(oid, {position}, Unawaited(v{number}), {', '.join(made)})",
            f"  t{number} = text_of(v{number})",
        ]
        if post:
            lines.append(f" post(oid, {number}, v{number}, None)")
        made += [f"v{number}", f"t{number}"]
        values += [f"v{number}"] * (step.carry + 1)
        texts += [f"t{number}"] * (step.carry + 1)
    lines.append(f" return [{', '.join(values)}], [{', '.join(texts)}], none")
    exec(compile("\n".join(lines), f"<pass of revision {revision.number}>", "exec"), names)
    run: Callable[[object, str], Any] = names["run"]
    return run


def _given_names(step: PlanStep, values: list[str], texts: list[str]) -> list[str]:
    arguments = values[::-1] if step.values < 0 else values[: -step.values - 1 : -1]
    return arguments + [f"{text}.decode()" for text in texts[: -step.texts - 1 : -1]] * (step.texts > 0)


def _failed(
    revision: Plan, context: RunContext, oid: str, position: int, error: BaseException, text: bytes,
    message: object, *made: Any,
) -> PassStart:  # fmt: skip
    if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        raise error  # a Ctrl-C is the user's
    known: dict[int, KnownOutcome] = {n: (value, None, made[2 * n + 1]) for n, value in enumerate(made[::2])}
    known[position] = (None, error, b"")
    return [], [], CarefulPass(revision, message, context, oid, text=text, known=known)
