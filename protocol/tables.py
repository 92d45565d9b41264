"""The tables of PROTOCOL.md, made from the code they describe.

`python -m protocol.tables` brings PROTOCOL.md up to date. What stands between
`<!-- generated: name -->` and `<!-- end -->` belongs to this module.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct, inspect

from protocol import commands, events, models
from protocol.errors import ERRORS, CloseCode, advice

PROTOCOL = Path(__file__).with_name("PROTOCOL.md")

_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """The text with every generated block as it has to be. Raises KeyError for a block that nobody makes."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n\n{block[3]}", text)


# --- tables ----------------------------------------------------------------------------------


def error_table() -> str:
    """Every error code, its HTTP status, and whether the same command may succeed later."""
    rows = ((f"`{code}`", str(k.status), "yes" if k.retryable else "no", k.meaning) for code, k in ERRORS.items())
    return _table(("code", "HTTP", "retry", "meaning"), rows)


def close_table() -> str:
    """Every close code, and what its range asks for."""
    rows = ((str(int(code)), f"`{code.name}`", _advice(code)) for code in CloseCode)
    return _table(("code", "name", "the client"), rows)


def _advice(code: CloseCode) -> str:
    reconnect, backoff = advice(code)
    if not reconnect:
        return "does not come back unchanged"
    return "comes back after a backoff" if backoff else "comes back at once and resumes"


def command_table() -> str:
    """Every command of a socket and its fields."""
    return _structs("command", commands.SOCKET_COMMANDS)


def request_table() -> str:
    """Every command that comes by REST alone and its fields."""
    kinds = (kind for kind in vars(commands).values() if isinstance(kind, type) and issubclass(kind, commands.Command))
    on_sockets = {commands.Command, *commands.SOCKET_COMMANDS.values()}
    return _structs("command", {kind.__name__: kind for kind in kinds if kind not in on_sockets})


def durable_table() -> str:
    """Every durable event and its fields."""
    return _structs("event", events.DURABLE)


def ephemeral_table() -> str:
    """Every ephemeral event and its fields."""
    return _structs("event", events.EPHEMERAL)


def control_table() -> str:
    """Every event of the connection itself and its fields."""
    return _structs("event", events.CONTROL)


def answer_table() -> str:
    """The shapes of answers: the `data` of an ack, and of a REST answer."""
    made = set(events.DURABLE.values()) | set(events.EPHEMERAL.values()) | set(events.CONTROL.values())
    kinds = (kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Event))
    return _structs("answer", {kind.__name__: kind for kind in kinds if kind is not events.Event and kind not in made})


def shape_table() -> str:
    """The shapes that commands, events and answers share."""
    kinds = (kind for kind in vars(models).values() if isinstance(kind, type) and issubclass(kind, Struct))
    return _structs("shape", {kind.__name__: kind for kind in kinds if kind is not Struct})


def uncounted_list() -> str:
    """The frames that resume-by-counting leaves out, by direction."""
    theirs = ", ".join(f"`{name}`" for name in events.CONTROL if name in events.UNCOUNTED_EVENTS)
    ours = ", ".join(f"`{name}`" for name in commands.SOCKET_COMMANDS if name in commands.UNCOUNTED_COMMANDS)
    return f"- server → client, not counted: {theirs}.\n- client → server, not counted: {ours}."


TABLES: Mapping[str, Callable[[], str]] = {
    "errors": error_table,
    "closes": close_table,
    "commands": command_table,
    "requests": request_table,
    "durable": durable_table,
    "ephemeral": ephemeral_table,
    "control": control_table,
    "answers": answer_table,
    "shapes": shape_table,
    "uncounted": uncounted_list,
}
"""What makes each block, by its name."""


# --- their cells -----------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _structs(what: str, structs: Mapping[str, type[Struct]]) -> str:
    rows = ((f"`{name}`", _fields(struct), _meaning(struct)) for name, struct in structs.items())
    return _table((what, "fields", "meaning"), rows)


def _meaning(struct: type[Struct]) -> str:
    return " ".join((struct.__doc__ or "").split())


def _fields(struct: type[Struct]) -> str:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    words = _field if issubclass(struct, commands.Command) or struct.__struct_config__.omit_defaults else _sent_field
    return "<br>".join(words(field) for field in info.fields) or "none"


def _sent_field(field: inspect.Field) -> str:
    """What the server sends is always there, unless its struct omits defaults."""
    return f"`{field.encode_name}` {_kind(field.type)}"


def _field(field: inspect.Field) -> str:
    """What may be left out where it has a default, as in all that a client sends."""
    optional = "" if field.required else "?"
    empty = field.default in (msgspec.NODEFAULT, None, UNSET)
    default = "" if empty else f" = `{msgspec.json.encode(field.default).decode()}`"
    return f"`{field.encode_name}`{optional} {_kind(field.type)}{default}"


_PLAIN: Mapping[type[inspect.Type], str] = {
    inspect.UUIDType: "uuid",
    inspect.DateTimeType: "time",
    inspect.BoolType: "boolean",
    inspect.FloatType: "number",
    inspect.NoneType: "null",
    inspect.AnyType: "anything",
}


def _kind(kind: inspect.Type) -> str:
    """A type in a few words of Markdown."""
    match kind:
        case inspect.Metadata(type=inner, extra_json_schema=extra):
            words = (extra or {}).get("description")
            return f"{_kind(inner).partition(' (')[0]} ({words})" if words else _kind(inner)
        case inspect.StrType(min_length=low, max_length=high):
            return f"text{_range(low, high, 'characters')}"
        case inspect.IntType(ge=low, le=high):
            return f"integer{_range(low, high)}"
        case inspect.LiteralType(values=values):
            return " \\| ".join(f"`{value}`" for value in values)
        case inspect.StructType(cls=cls):
            return f"[{cls.__name__}](#shapes)"
        case inspect.UnionType(types=types):
            return " or ".join(_kind(inner) for inner in types)
        case _:
            return _PLAIN[type(kind)] if type(kind) in _PLAIN else _collection(kind)


def _collection(kind: inspect.Type) -> str:
    match kind:
        case inspect.ListType(item_type=item, min_length=low, max_length=high):
            return f"list of {_kind(item)}{_range(low, high)}"
        case inspect.VarTupleType(item_type=item):
            return f"list of {_kind(item)}"
        case inspect.DictType(key_type=key, value_type=value, min_length=low, max_length=high):
            return f"object, {_kind(key)} → {_kind(value)}{_range(low, high, 'entries')}"
        case _:
            raise TypeError(f"{kind} has no words yet")


def _range(low: int | None, high: int | None, unit: str = "") -> str:
    """Bounds, for people: the largest 64-bit integer is no bound worth reading."""
    if high == 2**63 - 1:
        high = None
    if low is None and high is None:
        return ""
    words = f"{low} to {high}" if low is not None and high is not None else ""
    words = words or (f"at least {low}" if high is None else f"at most {high}")
    return f" ({words} {unit})" if unit else f" ({words})"


if __name__ == "__main__":
    PROTOCOL.write_text(fill(PROTOCOL.read_text("utf-8")), "utf-8")
    sys.stdout.write(f"{PROTOCOL} is up to date.\n")
