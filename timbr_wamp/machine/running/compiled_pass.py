"""The usual pass through the slots: a revision compiled to straight-line Python functions.

There is no loop over steps and no list of arguments; unset slots only repeat the name of their value. When a slot
raises, `timbr_wamp.machine.running.careful_pass` takes over, which handles outcomes and policies. Calls of hooks are
compiled in only if there are hooks, so that they cost nothing otherwise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from timbr_wamp.errors import InvalidArgument, is_users_interrupt
from timbr_wamp.machine.messages import Entry, Finished
from timbr_wamp.machine.raw import Raw
from timbr_wamp.machine.running.careful_pass import CarefulPass, KnownOutcome, Unawaited
from timbr_wamp.machine.slots.arguments import reads_message
from timbr_wamp.machine.slots.callables import is_unawaited
from timbr_wamp.values import TEXT_OPTIONS, TEXT_TYPES, is_small_and_plain, plain_text, text_of

if TYPE_CHECKING:
    from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext

#: Values ``[in, f0, …]``, their texts, and where a slot raised the `CarefulPass` that takes over.
PassStart: TypeAlias = "tuple[list[Any], list[bytes], CarefulPass | tuple[()]]"
#: Yields when a commit is due; returns the entry at which a slot raised with the pass that takes over, or None.
ManyPasses: TypeAlias = "Generator[None, None, tuple[Entry, CarefulPass] | None]"

_HOOKED = ("pre_slot", "post_slot")


@dataclass(frozen=True, slots=True)
class CompiledPass:
    """A revision as functions. One thread at a time."""

    #: ``one(message, oid)``: run one message.
    one: Callable[[object, str], PassStart]
    #: The same, and note how long each slot took.
    timed: Callable[[object, str], PassStart]
    #: ``many(entries, count, generation, add)``: run ``count`` entries from the left, as long as that is the context's
    #: generation; ``add`` takes each when it is finished.
    many: Callable[[deque[Entry], int, int, Callable[[Finished], object]], ManyPasses]
    #: The entry whose pass was broken off by an error of the machine's own, if any.
    interrupted: list[Entry]


def compile_pass(revision: Plan, context: RunContext) -> CompiledPass:
    """Return the functions of a revision.

    For slots 0 and 2 of four, of which the second takes two values, the text of ``one`` is::

        def one(value, oid):
            if type(value) is Raw: …
            else: text = dumps(value) if …is plain… else plain_text(value)
            try: v0 = f0(value)
            except BaseException as error: return failed(oid, 0, error, text, value)
            try: t0 = dumps(v0) if …is plain… else plain_text(v0)
            except Exception: …
            try: v2 = f2(v0, v0)
            except BaseException as error: return failed(oid, 1, error, text, value, v0, t0)
            ...
            return [value, v0, v0, v2, v2], [text, t0, t0, t2, t2], none

    and ``many`` has the same lines in a loop over entries.
    """
    names: dict[str, Any] = {
        "__name__": "timbr_wamp.machine.pass",
        # the message, and texts of values
        "Raw": Raw, "InvalidArgument": InvalidArgument, "dumps": orjson.dumps, "options": TEXT_OPTIONS,
        "is_small": is_small_and_plain, "writer_of": dict.fromkeys(TEXT_TYPES, orjson.dumps).get,
        "plain_text": plain_text, "text_of": text_of,
        # calls that fail, or that give something to await
        "failed": partial(_failed, revision, context), "careful": partial(_careful, revision, context),
        "is_unawaited": is_unawaited, "Unawaited": Unawaited,
        # around them
        "pre": partial(context.hooks.call, "pre_slot"), "post": partial(context.hooks.call, "post_slot"),
        "context": context, "clock": context.clock, "now": perf_counter, "repeat": repeat, "revision": revision,
        "interrupted": [], "none": (),
    }  # fmt: skip
    hooked = tuple(bool(context.hooks.at(point)) for point in _HOOKED)
    lines = ["def one(value, oid):", *_SourceWriter(revision, hooked, names).body(" return {}")]
    lines += ["def timed(value, oid):", *_SourceWriter(revision, hooked, names, timed=True).body(" return {}")]
    body = _SourceWriter(revision, hooked, names, oid="entry[0]").body("  return entry, {}[2]", last="")
    texts = _SourceWriter(revision, hooked, names).texts()
    lines += [
        "def many(entries, count, generation, add):", " popleft = entries.popleft",
        " for _ in repeat(None, count):", "  if context.generation != generation: return None",
        "  entry = popleft()", "  try:", "   value = entry[1]", *(f"  {line}" for line in body),
        "   at = clock()", "  except BaseException:", "   interrupted.append(entry)", "   raise",
        f"  add((entry, revision, ({', '.join(texts)},), none, at))",
        "  if at >= context.commit_due: yield", " return None",
    ]  # fmt: skip
    exec(compile("\n".join(lines), f"<pass of revision {revision.number}>", "exec"), names)
    return CompiledPass(names["one"], names["timed"], names["many"], names["interrupted"])


class _SourceWriter:
    """Writes the lines of one revision; adds the functions that they call to ``names``."""

    def __init__(
        self, revision: Plan, hooked: tuple[bool, ...], names: dict[str, Any], *, timed: bool = False, oid: str = "oid"
    ) -> None:
        self._revision, self._hooked, self._names, self._timed, self._oid = revision, hooked, names, timed, oid

    def texts(self) -> list[str]:
        """Return the names of the texts ``[in, f0, …]``."""
        return self._variables("text", "t")

    def _variables(self, message: str, prefix: str) -> list[str]:
        """Return ``message`` and ``<prefix><slot>`` for each slot; unset ones repeat the name before them."""
        names = [message] * (self._revision.lead + 1)
        for step in self._revision.steps:
            names += [f"{prefix}{step.slot.number}"] * (step.carry + 1)
        return names

    def body(self, leave: str, last: str | None = None) -> list[str]:
        """Return the lines, indented by one; ``leave`` is the statement with which a failure leaves them.

        ``last``: the last line; None: the one that returns values and texts.
        """
        steps, texts, values = self._revision.steps, self.texts(), self._variables("value", "v")
        lines = self._input(leave)
        made: list[str] = ["text", "value"]
        at_hand = self._revision.lead + 1
        for position, step in enumerate(steps):
            lines += self._step(position, step, _given_names(step, values[:at_hand], texts[:at_hand]), made, leave)
            made += [f"v{step.slot.number}", f"t{step.slot.number}"]
            at_hand += step.carry + 1
        if last is None:
            last = f" return [{', '.join(values)}], [{', '.join(texts)}], none"
        return [*lines, *([last] if last else [])]

    def _input(self, leave: str) -> list[str]:
        read = any(reads_message(step, step.slot.number + 1, self._revision.lead) for step in self._revision.steps)
        return [
            " if type(value) is Raw:",
            "  text = value.text",
            f"  try: {'value = value.parsed' if read else 'value.check'}()",
            f"  except InvalidArgument:{leave.format(f'careful(value, {self._oid})')}",
            " else:",
            f"  try: {_text_line('text', 'value')}",
            "  except Exception: text = text_of(value)",
        ]

    def _step(self, position: int, step: PlanStep, arguments: list[str], made: list[str], leave: str) -> list[str]:
        number, known, oid = step.slot.number, ", ".join(made), self._oid
        self._names[f"f{number}"] = step.function
        self._names[f"timings{number}"] = step.slot.tally.timings
        pre, post = self._hooked
        call = f"v{number} = f{number}({', '.join(arguments)})"
        lines = [f" pre({oid}, {number}, [{', '.join(arguments)}])"] if pre else []
        lines += [" started = now()"] if self._timed else []
        lines += [
            f" try: {call}",
            f" except BaseException as error:{leave.format(f'failed({oid}, {position}, error, {known})')}",
        ]
        lines += [f" timings{number}.append(now() - started)"] if self._timed else []
        lines += [
            f" try: {_text_line(f't{number}', f'v{number}')}",
            " except Exception:",
            f"  if is_unawaited(v{number}):{leave.format(f'failed({oid}, {position}, Unawaited(v{number}), {known})')}",
            f"  t{number} = text_of(v{number})",
        ]
        return [*lines, *([f" post({oid}, {number}, v{number}, None)"] if post else [])]


def _text_line(text: str, value: str) -> str:
    """Return the assignment that writes a value: what `plain_text` does, without its call where that is possible."""
    return (
        f"kind = type({value}); {text} = dumps({value}, None, options) if kind is dict and is_small({value}) "
        f"else writer_of(kind, plain_text)({value})"
    )


def _given_names(step: PlanStep, values: list[str], texts: list[str]) -> list[str]:
    arguments = values[::-1] if step.values < 0 else values[: -step.values - 1 : -1]
    return arguments + [f"{text}.decode()" for text in texts[: -step.texts - 1 : -1]] * (step.texts > 0)


def _failed(
    revision: Plan, context: RunContext, oid: str, position: int, error: BaseException, text: bytes,
    message: object, *made: Any,
) -> PassStart:  # fmt: skip
    if is_users_interrupt(error):
        raise error
    known: dict[int, KnownOutcome] = {n: (value, None, made[2 * n + 1]) for n, value in enumerate(made[::2])}
    known[position] = (None, error, b"")
    return [], [], CarefulPass(revision, message, context, oid, text=text, known=known)


def _careful(revision: Plan, context: RunContext, message: object, oid: str) -> PassStart:
    return [], [], CarefulPass(revision, message, context, oid)
