"""Generate the node component's access table, the page's TypeScript types and the wire reference from the contract.

``python -m timbr_wamp.contract.exports`` rewrites the generated files of a clone. A test fails when
one of them is out of date.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from timbr_wamp.contract import provenance, structs, trials
from timbr_wamp.contract.api import PROCEDURES, RESERVED_NAMES, TOPICS
from timbr_wamp.contract.declaration import Procedure, Scope
from timbr_wamp.errors import ERRORS, TimbrError

HEADER = "Generated from timbr_wamp/contract by `python -m timbr_wamp.contract.exports`; do not edit."

#: Prefix of the URIs of a scope, with placeholders.
URI_PREFIX: dict[Scope, str] = {
    "node": "io.timbr.kernel",
    "host": "io.timbr.host.<authid>",
    "kernel": "io.timbr.kernel.<kernel_id>",
    "machine": "io.timbr.kernel.<kernel_id>.<machine>",
}
#: URIs of the node component's procedures and topics, which do not follow `URI_PREFIX`.
NODE_URIS = {
    "list": "io.timbr.kernel.list",
    "announce": "io.timbr.node.announce",
    "discovery": "io.timbr.kernel.discovery",
    "interest": "io.timbr.node.interest",
}


def access_table() -> dict[str, Any]:
    """Return the access class of every procedure and topic, and the form of announcements, as the JSON that the node
    component reads."""
    table: dict[str, Any] = {"reserved": sorted(RESERVED_NAMES)}
    for scope in PROCEDURES:
        procedures = {_local(scope, name): p.access.value for name, p in PROCEDURES[scope].items()}
        topics = {_local(scope, name): t.access.value for name, t in TOPICS[scope].items()}
        table[scope] = {"procedures": procedures, "topics": topics}
    table["announced"] = {"kernel": _form(structs.KernelInfo), "machine": _form(structs.MachineBrief)}
    return table


def _form(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the fields of an announcement as the node component checks them: kinds of values, and whether needed.

    What one bridge announces comes to everybody in a list, which a field of another kind would make useless.
    """
    hints = typing.get_type_hints(struct)
    return {
        field.name: {"kinds": _kinds(hints[field.name]), "required": field.required}
        for field in msgspec.structs.fields(struct)
    }


def _kinds(hint: Any) -> list[str]:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [kind for arg in args for kind in _kinds(arg)]
    if origin is Literal:
        return [f"={text}" for text in args]
    return ["null" if hint is type(None) else (origin or hint).__name__]


def uri_text(scope: Scope, name: str) -> str:
    """Return the URI of a procedure or topic, with placeholders."""
    if scope == "node":
        return NODE_URIS[name]
    return f"{URI_PREFIX[scope]}.{name}" if name else URI_PREFIX[scope]


def _local(scope: Scope, name: str) -> str:
    return NODE_URIS[name] if scope == "node" else name


def _structs() -> Iterator[type[msgspec.Struct]]:
    for module in (structs, provenance, trials):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__:
                yield value


# --- TypeScript ------------------------------------------------------------------------------


def typescript() -> str:
    """Return the TypeScript module of types, URIs and access classes for the page."""
    lines = [f"// {HEADER}", ""]
    for struct in _structs():
        hints = typing.get_type_hints(struct)
        lines.append(f"/** {_first_line(struct)} */")
        if struct.__struct_config__.array_like:
            inner = ", ".join(f"{name}: {_ts(hints[name])}" for name in struct.__struct_fields__)
            lines += [f"export type {struct.__name__} = [{inner}];", ""]
            continue
        lines.append(f"export interface {struct.__name__} {{")
        left_out = _left_out(struct)
        lines += [f"  {name}{'?' * (name in left_out)}: {_ts(hints[name])};" for name in struct.__struct_fields__]
        lines += ["}", ""]
    for scope, table in PROCEDURES.items():
        lines.append(f"export interface {scope.capitalize()}Procedures {{")
        for name, proc in table.items():
            args = "; ".join(_ts_parameter(proc, parameter) for parameter in proc.parameters)
            lines.append(f"  {name}: {{ args: {{ {args} }}; result: {_ts(proc.result_type)} }};")
        lines += ["}", ""]
    for scope, topics in TOPICS.items():
        if topics:
            lines.append(f"export interface {scope.capitalize()}Topics {{")
            lines += [f'  "{name}": {_ts(topic.payload)};' for name, topic in topics.items()]
            lines += ["}", ""]
    lines.append("export const NODE_URIS = {")
    lines += [f'  {name}: "{uri}",' for name, uri in NODE_URIS.items()]
    lines += ["} as const;", ""]
    lines.append("export const ACCESS = {")
    for scope, table in PROCEDURES.items():
        inner = ", ".join(f'{name}: "{proc.access.value}"' for name, proc in table.items())
        lines.append(f"  {scope}: {{ {inner} }},")
    lines += ["} as const;", ""]
    return "\n".join(lines)


def _left_out(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the fields, with their defaults, that are not sent while they have them: a record's, as there are many."""
    if struct is not structs.RecordMeta:
        return {}
    return {field.name: field.default for field in msgspec.structs.fields(struct) if not field.required}


def _ts_parameter(proc: Procedure, parameter: inspect.Parameter) -> str:
    optional = "" if parameter.default is inspect.Parameter.empty else "?"
    return f"{parameter.name}{optional}: {_ts(proc.types[parameter.name])}"


_TS_PLAIN: dict[Any, str] = {
    int: "number", float: "number", str: "string", bool: "boolean", bytes: "string", Any: "unknown",
    None: "null", type(None): "null",
}  # fmt: skip


def _ts(hint: Any) -> str:
    if hint in _TS_PLAIN:
        return _TS_PLAIN[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(_ts(arg) for arg in args))
    if origin is Literal:
        return " | ".join(f'"{arg}"' for arg in args)
    if origin is list:
        inner = _ts(args[0])
        return f"({inner})[]" if " " in inner else f"{inner}[]"
    if origin is tuple:
        return "[" + ", ".join(_ts(arg) for arg in args) + "]"
    if origin is dict:
        return f"Record<string, {_ts(args[1])}>" if args[1] is not Any else "{ [key: string]: unknown }"
    return str(hint.__name__)


# --- the reference page ----------------------------------------------------------------------

#: Head of the page: what holds for all procedures and topics.
FORM = f"""\
**Form.** A procedure's result is the first argument of the result; one that returns nothing gives `null`. A topic's
event has one argument of the type in its table, as an object or array; only the machine's own topic has two, `oid` and
the values. Every field is sent, also when it has its default; fields that may be left out say so, and others may be
added by later versions.

**Numbers.** Integers from −2⁶³ to 2⁶⁴ − 1 are passed on exactly. A library may round them all the same: `JSON.parse`
keeps integers to ±(2⁵³ − 1). Texts of records (`text`, `block`) are JSON, so they can be read with a parser of your
choice.

**Records.** In `recent`, `record` and the local sockets a record is a `RecordRow`: its `text` is the JSON text
`[in, f0, f1, …]`, its `meta` that of a `RecordMeta`. In `records`, the procedure and the topic, records come in a
`RecordsBatch`: `block` is one JSON text of all rows, and a row's `values` has what was made: the n-th of them stands
for `layout[n]` positions of `[in, f0, f1, …]`, since an unset slot passes its value on. An empty `layout` means one
each.

**Limits.** A call, event or result has at most {structs.PAYLOAD_LIMIT_BYTES:,} bytes; a larger one is refused with
`io.timbr.error.payload_too_large`. A record whose text has more than {structs.ROW_LIMIT_BYTES:,} bytes comes without
it, and its `meta` has the size; `record(run, seq)` sends it in parts. The router takes messages of at most
{structs.ROUTER_LIMIT_BYTES:,} bytes: a larger one ends the connection, without a reason, and calls under way get no
answer. Serializers are JSON and MsgPack; keys of objects are texts.

**Who answers.** A call that nobody answers fails with `wamp.error.no_such_procedure`: the kernel's id is wrong, it is
not on the router, or it has no such machine or procedure. For names that begin with `io.timbr.`, a call that fails with
`wamp.error.not_authorized` means that the token's role is too low, whether the kernel is there or not. Other names are
refused with it, too, and topics of a kernel id that no kernel can have.

""".split("\n")[:-1]


def wire_reference() -> str:
    """Return ``docs/reference/wire.md``."""
    lines = [
        "# The wire", "", f"<!-- {HEADER} -->", "",
        "Every procedure and topic. `<kernel_id>` is `<host's authid>_<12 hex digits>`; `<machine>` is the",
        "machine's name, `machine` unless it was given another. Access: *read* for viewers, *operate* for",
        "operators, *admin* for administrators, *host* for bridges and hosts. Times are UTC seconds,",
        "durations seconds (`_s`), sizes bytes (`_bytes`). Arguments may be given by position or by name.", "",
        *FORM,
    ]  # fmt: skip
    for scope, table in PROCEDURES.items():
        lines += [f"## {scope.capitalize()}: procedures", ""]
        for name, proc in table.items():
            lines += _procedure_section(scope, name, proc)
        if TOPICS[scope]:
            lines += [f"## {scope.capitalize()}: topics", "", "| topic | access | carries | |", "|---|---|---|---|"]
            for name, topic in TOPICS[scope].items():
                payload = _md_type(topic.payload)
                lines.append(f"| `{uri_text(scope, name)}` | {topic.access.value} | {payload} | {topic.doc} |")
            lines.append("")
    lines += ["## Values", ""]
    for struct in _structs():
        hints = typing.get_type_hints(struct)
        shape = " (an array in this order)" if struct.__struct_config__.array_like else ""
        lines += [f"### {struct.__name__}", "", f"{inspect.getdoc(struct)}{shape}", "", "| field | type |", "|---|---|"]
        without = {name: f", left out when it is `{json.dumps(value)}`" for name, value in _left_out(struct).items()}
        lines += [f"| `{name}` | {_md_type(hints[name])}{without.get(name, '')} |" for name in struct.__struct_fields__]
        lines.append("")
    lines += ["## Errors", "", "| URI | class | arguments | meaning |", "|---|---|---|---|"]
    for uri, error in sorted(ERRORS.items()):
        lines.append(f"| `{uri}` | `{error.__name__}` | {_error_arguments(error)} | {_first_line(error)} |")
    return "\n".join(lines) + "\n"


def _procedure_section(scope: Scope, name: str, proc: Procedure) -> list[str]:
    lines = [f"### `{uri_text(scope, name)}`", "", f"*{proc.access.value}*. {proc.doc}", ""]
    if proc.parameters:
        lines += ["| argument | type | default |", "|---|---|---|"]
        for parameter in proc.parameters:
            default = "–" if parameter.default is inspect.Parameter.empty else f"`{parameter.default!r}`"
            lines.append(f"| `{parameter.name}` | {_md_type(proc.types[parameter.name])} | {default} |")
        lines.append("")
    lines.append(f"Result: {_md_type(proc.result_type)}.")
    if proc.progress_type is not None:
        lines.append(f"Progressive results: {_md_type(proc.progress_type)}.")
    if proc.errors:
        lines.append("Errors: " + ", ".join(f"`{error.uri}`" for error in proc.errors) + ".")
    return [*lines, ""]


def _md_type(hint: Any) -> str:
    return "`" + _ts(hint).replace("|", "\\|") + "`"


def _first_line(thing: type) -> str:
    return (inspect.getdoc(thing) or "").splitlines()[0]


def _error_arguments(error: type[TimbrError]) -> str:
    if error is TimbrError:
        return "–"
    parameters = list(inspect.signature(error.__init__).parameters.values())[1:]
    return ", ".join(f"`{parameter.name}`" for parameter in parameters) or "–"


#: Generated files of a clone: path below the root → function that generates it.
GENERATED = {
    "frontend/src/contract.ts": typescript,
    "docs/reference/wire.md": wire_reference,
}


def write_generated(root: Path) -> list[str]:
    """Write the generated files below ``root``; return the paths that changed."""
    changed = []
    for name, make in GENERATED.items():
        path, text = root / name, make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed


if __name__ == "__main__":
    for written in write_generated(Path(sys.argv[1] if len(sys.argv) > 1 else ".")):
        sys.stdout.write(f"wrote {written}\n")
