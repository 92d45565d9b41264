"""Any value that a command's fields allow, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec import Struct, inspect

from protocol.models import NO_NUL

LONGEST = 40
"""Characters or items more than the fewest that are allowed; limits themselves are tested elsewhere."""

TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


def struct(kind: type[Struct]) -> st.SearchStrategy[Any]:
    """A struct with all its required fields, and some of the others."""
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return _struct(described)


def _struct(kind: inspect.StructType) -> st.SearchStrategy[Any]:
    required = {field.name: _value(field.type) for field in kind.fields if field.required}
    optional = {field.name: _value(field.type) for field in kind.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: kind.cls(**fields))


def _value(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.Metadata():
            return _value(kind.type)
        case inspect.UnionType():
            return st.one_of([_value(one) for one in kind.types])
        case inspect.StructType():
            return _struct(kind)
        case inspect.ListType():
            return st.lists(_value(kind.item_type), min_size=kind.min_length or 0, max_size=3)
        case inspect.DictType():
            keys, values = _value(kind.key_type), _value(kind.value_type)
            return st.dictionaries(keys, values, min_size=kind.min_length or 0, max_size=3)
    return _scalar(kind)


def _scalar(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.StrType():
            return _text(kind.min_length or 0, kind.max_length, kind.pattern)
        case inspect.IntType():
            return st.integers(-(2**63) if kind.ge is None else kind.ge, 2**63 - 1 if kind.le is None else kind.le)
        case inspect.LiteralType():
            return st.sampled_from(list(kind.values))
    return _PLAIN[type(kind)]


def _text(fewest: int, most: int | None, pattern: str | None) -> st.SearchStrategy[str]:
    longest = min(most or 2**31, fewest + LONGEST)
    if pattern in (None, NO_NUL):
        return st.text(TEXT, min_size=fewest, max_size=longest)
    return st.from_regex(pattern, alphabet=TEXT).filter(lambda value: fewest <= len(value) <= longest)


_PLAIN: dict[type[inspect.Type], st.SearchStrategy[Any]] = {
    inspect.BoolType: st.booleans(),
    inspect.NoneType: st.none(),
    inspect.UUIDType: st.uuids(),
}
