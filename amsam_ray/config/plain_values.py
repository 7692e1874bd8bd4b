"""Refuse values of another kind than a key's, which pydantic would convert: ``epochs: true`` is not one epoch.

A whole number may still be written as ``4.0``, and a number as ``1e-4``, which YAML 1.1 reads as text.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationInfo, field_validator

_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]{1,3}")


def plain_number(value: Any) -> Any:
    """Return ``value``, text such as ``1e-4`` as a number. Raises ValueError for booleans and other text."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    if isinstance(value, bool | str):
        raise ValueError(f"must be a number, not {_shown(value)}")
    return value


class PlainModel(BaseModel):
    """A model whose numbers are neither booleans nor text, and whose booleans are neither numbers nor text."""

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, bool | int | float | str):
            return value
        kinds, words = _allowed(cls, info.field_name or "")
        if bool in kinds:
            if not isinstance(value, bool):
                raise ValueError(f"must be true or false, not {_shown(value)}")
        elif kinds & {int, float} and str not in kinds and value not in words:
            try:
                return plain_number(value)
            except ValueError:
                choice = f" or {' or '.join(words)}" if words else ""
                raise ValueError(f"must be a number{choice}, not {_shown(value)}") from None
        return value


@cache
def _allowed(model: type[BaseModel], field: str) -> tuple[frozenset[type], tuple[str, ...]]:
    """Return the types of a field, and the words that it also takes."""
    leaves = list(_leaves(model.model_fields[field].annotation))
    return frozenset(t for t in leaves if isinstance(t, type)), tuple(w for w in leaves if isinstance(w, str))


def _leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types of an annotation, and the texts of its literals; nothing of what containers hold."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _leaves(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _leaves(part)
    elif origin is Literal:
        yield from (word for word in get_args(annotation) if isinstance(word, str))
    elif origin is None:
        yield annotation


def _shown(value: object) -> str:
    return repr(value).lower() if isinstance(value, bool) else repr(value)[:60]
