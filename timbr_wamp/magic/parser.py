"""Parse a line after ``%wamp`` into a verb and its arguments. Pure.

Arguments follow shell quoting. Verbs that take Python use the rest of the line unchanged, so that code
needs no quoting: ``%wamp set 0 lambda x: x["mag"] > 4``. A comment ends a line, as in a shell and in
Python: what follows a ``#`` that begins a word, or in Python text one that is in no literal.
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from IPython.core.error import UsageError

from timbr_wamp.errors import did_you_mean
from timbr_wamp.magic.commands import REPLACED, VERBS, Argument, Verb
from timbr_wamp.names import KERNEL_PREFIX

#: A word of a shell: it may hold quoted blanks. A quote that is not closed ends with the word.
_WORD = re.compile(r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+(?=\s|$)|\S+""")
_COMMENT = "#"
_HELP = ("-h", "--help")


@dataclass(frozen=True, slots=True)
class Command:
    """A parsed line. The arguments may contain a token, so they are not in the ``repr``."""

    verb: str
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    #: The Python text for verbs that take some; else empty.
    code: str = ""


class HelpRequested(Exception):
    """Raised when the line asks for help; contains the text to show."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class _Parser(argparse.ArgumentParser):
    """An argparse parser that neither exits nor prints."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if unknown and len(unknown[0]) < len(message) and unknown[0].startswith("-"):
            message += did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
        raise UsageError(f"{message}\n{self.format_usage().rstrip()}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UsageError((message or self.format_usage()).rstrip())


def parse(line: str, *, cell: bool = False, expand: Callable[[str], str] = str) -> Command:
    """Return the command of a line after ``%wamp``, or with ``cell`` after ``%%wamp``.

    Args:
        line: the text after the magic's name.
        cell: it is a cell magic; a line without a verb then means ``execute``.
        expand: replaces ``$name`` and ``{expression}`` in arguments, not in Python text.

    Raises:
        UsageError: unknown verb or invalid arguments; the error has the usage line.
        HelpRequested: ``help``, ``-h`` or ``--help``.
    """
    line = line.strip()
    if line.startswith(_COMMENT):
        line = ""
    word, rest = (*line.split(None, 1), "", "")[:2]
    if word in _HELP:
        raise HelpRequested(overview())
    if cell and word.startswith(KERNEL_PREFIX + "."):  # juno-magic's form: %%juno PREFIX
        word, rest = "execute", f"--kernel {line}"
    elif cell and (not word or word.startswith("-")):
        word, rest = "execute", line
    if not word:
        raise UsageError(f"a verb is missing\n{usage()}")
    if word in REPLACED:
        return Command(word)
    if word not in VERBS:
        raise UsageError(f"unknown verb {word!r}{did_you_mean(word, VERBS)}\n{usage()}")
    verb = VERBS[word]
    words, code = _split(verb, rest, expand)
    if any(word in _HELP for word in words):
        raise HelpRequested(verb_help(verb))
    arguments = vars(parser_of(verb).parse_args(words))
    if verb.name == "help":
        raise HelpRequested(_help_for(arguments["verb"]))
    return Command(verb.name, arguments, code)


def usage() -> str:
    """Return one line with the names of all verbs."""
    return f"usage: %wamp VERB …   verbs: {', '.join(VERBS)}; `%wamp help VERB` explains one"


def overview() -> str:
    """Return one line for each verb."""
    width = max(map(len, VERBS))
    lines = [f"  %wamp {verb.name:<{width}}  {verb.help}" for verb in VERBS.values()]
    return "\n".join([*lines, f"  %%wamp {'':<{width - 1}}  run the cell on the selected kernel"])


def verb_help(verb: Verb) -> str:
    """Return the help of a verb."""
    return parser_of(verb).format_help().rstrip()


def parser_of(verb: Verb) -> argparse.ArgumentParser:
    """Return the parser for the arguments between a verb and its Python text."""
    code_word = "" if verb.code is None else " PYTHON …"
    plain = _Parser(prog=f"%wamp {verb.name}", add_help=False)
    _add_arguments(plain, verb.arguments)
    synopsis = " ".join(plain.format_usage().split()).removeprefix("usage: ") + code_word
    parser = _Parser(
        prog=f"%wamp {verb.name}",
        usage=synopsis.replace("%", "%%"),
        description=verb.help,
        epilog=None if verb.code is None else f"PYTHON is {verb.code}; with %%wamp {verb.name} it is the cell.",
        add_help=False,
        allow_abbrev=False,
    )
    _add_arguments(parser, verb.arguments)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, arguments: Sequence[Argument]) -> None:
    for argument in arguments:
        help_text = argument.help.replace("%", "%%")
        if argument.convert is None:
            parser.add_argument(argument.name, action="store_true", help=help_text)
        elif argument.is_option:
            parser.add_argument(argument.name, type=argument.convert, default=argument.default, help=help_text)
        else:
            nargs = "*" if argument.many else None if argument.required else "?"
            parser.add_argument(
                argument.name, type=argument.convert, nargs=nargs, default=argument.default, help=help_text
            )


def _split(verb: Verb, rest: str, expand: Callable[[str], str]) -> tuple[list[str], str]:
    """Return the words for the verb's parser and the Python text after them."""
    end = _words_end(verb, rest)
    code = rest[end:].strip()
    if verb.code is None or code.startswith(_COMMENT):
        code = ""
    elif not verb.takes_cell:
        code = _without_comment(code)
    try:
        return shlex.split(expand(rest[:end])), code
    except ValueError as error:
        raise UsageError(f"{error}\n{parser_of(verb).format_usage().rstrip()}") from None


def _words_end(verb: Verb, rest: str) -> int:
    """Return the position where the arguments end, and the Python text or a comment starts."""
    options = {option.name: option for option in verb.options}
    positionals = len(verb.positionals)
    value_follows = False
    for match in _WORD.finditer(rest):
        word = match.group()
        name, equals, _ = word.partition("=")
        if word.startswith(_COMMENT):
            return match.start()
        if verb.code is None:
            continue
        if value_follows:
            value_follows = False
        elif name in options:
            value_follows = options[name].convert is not None and not equals
        elif word in _HELP:
            continue
        elif positionals:
            positionals -= 1
        else:
            return match.start()
    return len(rest)


def _without_comment(code: str) -> str:
    """Return a line of Python without the comment at its end; as it is if it cannot be read."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.COMMENT:
                return code[: token.start[1]].rstrip()
            if token.type == tokenize.ERRORTOKEN and token.string[:1] in ("'", '"'):
                return code  # an open quote: Python 3.12 raises
    except (tokenize.TokenError, SyntaxError):
        pass
    return code


def _help_for(name: str | None) -> str:
    if name is None:
        return overview()
    if name not in VERBS:
        raise UsageError(f"unknown verb {name!r}{did_you_mean(name, VERBS)}\n{usage()}")
    return verb_help(VERBS[name])
