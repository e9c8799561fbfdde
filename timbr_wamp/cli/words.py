"""`TextCommand`: a command with a text among its arguments. It says what a shell made of a text without quotes."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import click

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.literals import literal
from timbr_wamp.names import begins_python, slot_key

_NEGATIVE_NUMBER = re.compile(r"-(\.?\d|Infinity$|inf$)")
#: Words that may be names of kernels, machines and slots; others are texts.
_NAME = re.compile(r"[\w.-]*\w")
#: Arguments that are texts.
_TEXTS = ("MESSAGE", "SOURCE", "CODE")
#: A message as it is typed.
EXAMPLE = """'{"x": 14}'"""


@dataclass(slots=True)
class _Sorted:
    """The words of a command line."""

    #: Options with their values.
    options: list[str] = field(default_factory=list)
    #: Arguments, and where each is in ``texts``.
    words: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    #: Arguments and unknown options, in order: of these a text without quotes consists.
    texts: list[str] = field(default_factory=list)

    def argue(self, word: str) -> None:
        """Add an argument."""
        self.places.append(len(self.texts))
        self.words.append(word)
        self.texts.append(word)


class TextCommand(click.Command):
    """A command whose arguments may be negative numbers, which are no options, and the last of which may be a text."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words.

        Raises:
            UsageError: the text lacks quotes, an argument is missing, and what `click.Command.parse_args` raises.
        """
        if ctx.resilient_parsing:  # it completes a line
            return super().parse_args(ctx, args)
        found = self._sorted(ctx, args)
        if not set(found.options) & set(ctx.help_option_names):
            self._check(ctx, found)
        return super().parse_args(ctx, [*found.options, "--", *found.words])

    def _sorted(self, ctx: click.Context, args: list[str]) -> _Sorted:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        values = {name: 0 if one.is_flag or one.count else one.nargs for one in options for name in one.opts}
        found, waiting = _Sorted(), iter(args)
        for word in waiting:
            if word == "--":
                for text in waiting:
                    found.argue(text)
            elif word[:1] != "-" or word == "-" or _NEGATIVE_NUMBER.match(word):
                found.argue(word)
            else:
                found.options += [word, *islice(waiting, values.get(word, 0))]
                if word.partition("=")[0] not in values:
                    found.texts.append(word)
        return found

    def _check(self, ctx: click.Context, found: _Sorted) -> None:
        arguments = [param for param in self.params if isinstance(param, click.Argument)]
        names, words = [argument.human_readable_name for argument in arguments], found.words
        mistyped = any(text.startswith("--") for text in found.options if text in found.texts)
        if not words or mistyped or names[-1] not in _TEXTS:
            return  # it is click that tells
        last = len(names) - 1
        begin = last
        if names[last] != "MESSAGE":
            begin = next((number for number, word in enumerate(words[:last]) if begins_python(word)), last)
        if len(words) > len(names) or begin < last:
            text = " ".join(found.texts[found.places[min(begin, len(words) - 1)] :])
            missing = f"{_listed(names[begin:last])} missing; " if begin < last else ""
            ctx.fail(f"{missing}{names[last]} has several words: {_in_quotes(names[last], text)}")
        if len(words) < len(found.texts):
            return  # an unknown option
        if len(words) < len(names):
            ctx.fail(_missing(names, words))
        if (instead := _instead_of_file(names[last], words[last])) is not None:
            ctx.fail(f"{names[last]} is the name of a file; for what is in it, write {instead}")


def _listed(names: list[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _in_quotes(name: str, text: str) -> str:
    if name == "MESSAGE":
        try:
            literal(text)
        except InvalidArgument:  # the shell took its quotes away
            return f"put it in single quotes, as in {EXAMPLE}"
    return f"put it in quotes: {shlex.quote(text)}"


def _missing(names: list[str], words: list[str]) -> str:
    """Return which arguments are missing: those before a text that is there, else those after a name."""
    *before, word = words
    if _NAME.fullmatch(word):
        return f"{names[len(words)]} is missing: {word!r} is taken as {names[len(words) - 1]}"
    missing = names[len(before) : -1]
    if before and "SLOT" in names and isinstance(slot_key(before[-1]), int):
        missing = names[: -1 - len(before)]
    return f"{_listed(missing)} missing before {shlex.quote(word)}"


def _instead_of_file(name: str, text: str) -> str | None:
    """Return what to write for a text that is the name of a file that is there; None if it is not."""
    if "\n" in text or not Path(text).suffix or not os.path.isfile(text):
        return None
    return f"- < {shlex.quote(text)}" if name == "MESSAGE" else shlex.quote(f"@{text}")
