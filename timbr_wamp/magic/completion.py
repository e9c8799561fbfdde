"""Tab completion after ``%wamp``: verbs, options, kernels, slots, topics and names of the notebook.

`candidates` is pure and uses the table of verbs; `matcher_for` adapts it to IPython's completer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from timbr_wamp.contract.policy_syntax import POLICY_COMPLETIONS
from timbr_wamp.magic.commands import MACHINE, TOPICS, VERBS, Argument, Offer, Verb
from timbr_wamp.plugins import HANDLERS, names

#: The magic's line up to the cursor, also after an assignment: ``rows = %wamp rec``.
_LINE = re.compile(r"^\s*(?:[\w, ]+=\s*)?(?P<percent>%{1,2})(?:wamp|juno)\s(?P<line>.*)$")

#: Functions that return the current candidates for each kind of value.
Offers = Mapping[Offer, Callable[[], Iterable[str]]]


def candidates(line: str, offers: Offers) -> list[str] | None:
    """Return the completions at the end of ``line``, the text after the magic's name.

    None inside Python text, which IPython completes.

    >>> candidates("sel", {})
    ['select']
    >>> candidates("connect --re", {})
    ['--realm', '--reconnect']
    """
    *words, typed = line.split(" ")
    words = [word for word in words if word]
    if not words:
        return [name for name in VERBS if name.startswith(typed)]
    verb = VERBS.get(words[0])
    if verb is None:
        return []
    expected = _expected(verb, words[1:])
    if typed.startswith("-") and not (expected and expected[0].is_option):
        used = {word.partition("=")[0] for word in words}
        return [option.name for option in verb.options if option.name.startswith(typed) and option.name not in used]
    if not expected and verb.code is not None:
        return None
    offered = [name for argument in expected for name in _offered(argument.offer, offers)]
    return [name for name in dict.fromkeys(offered) if name.startswith(typed)]


def matcher_for(offers: Offers) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """Return a matcher for ``IPCompleter.custom_matchers``."""

    @context_matcher(identifier="timbr_wamp", priority=50)  # type: ignore[untyped-decorator]
    def wamp_matcher(context: CompletionContext) -> SimpleMatcherResult:
        found = _LINE.match(context.text_until_cursor)
        if found is None or (found["percent"] == "%%" and context.cursor_line > 0):
            return SimpleMatcherResult(completions=[], suppress=False)
        names = candidates(found["line"], offers)
        typed = found["line"].rpartition(" ")[2]
        return SimpleMatcherResult(
            completions=[SimpleCompletion(name, type="magic") for name in names or ()],
            matched_fragment=typed,
            suppress=names is not None,
        )

    return wamp_matcher  # type: ignore[no-any-return]


def _expected(verb: Verb, words: list[str]) -> tuple[Argument, ...]:
    """Return the arguments that the next word may belong to: two if the first one is optional."""
    options = {option.name: option for option in verb.options}
    position = 0
    value_of: Argument | None = None
    for word in words:
        if value_of is not None:
            value_of = None
        elif word in options:
            value_of = options[word] if options[word].convert is not None else None
        elif not word.startswith("--"):
            position += 1
    if value_of is not None:
        return (value_of,)
    positionals = verb.positionals
    if positionals and positionals[-1].many:
        position = min(position, len(positionals) - 1)
    left = positionals[position:]
    return left[:2] if len(left) > 1 and left[1].required and not left[0].required else left[:1]


def _offered(offer: Offer, offers: Offers) -> Iterable[str]:
    if offer == "topic":
        return TOPICS
    if offer == "verb":
        return VERBS
    if offer == "policy":
        return POLICY_COMPLETIONS
    if offer == "target":
        return (*_offered("slot", offers), MACHINE)
    if offer == "handler":
        return names(HANDLERS)
    return offers[offer]() if offer in offers else ()


def callables(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names of functions and classes in a namespace."""
    return sorted(name for name, value in namespace.items() if callable(value) and not name.startswith("_"))
