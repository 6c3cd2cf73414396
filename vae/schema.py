"""How a mapping becomes a frozen dataclass: types, ranges, and every problem at once.

A section is a frozen dataclass whose fields carry their legal range (``field(...)``). ``parse`` collects every problem of a
mapping instead of stopping at the first. Nothing here reads a file; where a value came from is the caller's to add.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any


def field(
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple | None = None,
    default: Any = MISSING,
) -> Any:
    """A dataclass field with its range: low <= value <= high, value > above, or value in choices; required without a ``default``."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "above": above, "choices": choices})


@dataclass(frozen=True)
class Problem:
    """One fault of a configuration: ``key`` (dotted) and ``message`` (what is wrong, what is allowed)."""

    key: str
    message: str


def _typed(value: Any, annotation: Any) -> tuple[Any, str | None]:
    """``value`` as ``annotation`` (int, float, str, bool, tuple[x, ...]); the second item says why not, or None."""
    origin = typing.get_origin(annotation)
    if origin is tuple:
        if not isinstance(value, list | tuple) or not value:
            return None, f"expected a non-empty list, got {value!r}"
        arguments = typing.get_args(annotation)
        if arguments[-1] is not Ellipsis and len(arguments) != len(value):
            return None, f"expected {len(arguments)} values, got {len(value)}"
        items = [_typed(item, arguments[0]) for item in value]
        wrong = next((reason for _, reason in items if reason), None)
        return tuple(item for item, _ in items), wrong
    if isinstance(annotation, types.UnionType):
        choices = [a for a in typing.get_args(annotation) if a is not type(None)]
        if value is None and len(choices) < len(typing.get_args(annotation)):
            return None, None
        answers = [_typed(value, choice) for choice in choices]
        good = next((answer for answer in answers if answer[1] is None), None)
        return good or (None, ", or ".join(dict.fromkeys(reason for _, reason in answers if reason)))
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value), None
        except OverflowError:
            return None, "the number is too large"
    if isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool)):
        if isinstance(value, float) and not math.isfinite(value):
            return None, f"expected a finite number, got {value!r}"
        return value, None
    if annotation is float and isinstance(value, str):
        try:
            float(value)
            hint = f" (write {float(value)!r}: YAML reads {value!r} as text)"
        except ValueError:
            hint = ""
        return None, f"expected a number, got the text {value!r}{hint}"
    return None, f"expected {annotation.__name__}, got {value!r}"


def _out_of_range(value: Any, metadata: Mapping[str, Any]) -> str | None:
    choices, low, high, above = (metadata.get(k) for k in ("choices", "low", "high", "above"))
    values = value if isinstance(value, tuple) else (value,)
    if choices is not None and value not in choices:
        close = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"{value!r} is not one of {', '.join(map(str, choices))}{hint}"
    if (low is not None and min(values) < low) or (high is not None and max(values) > high):
        return f"{value!r} is out of range: allowed {'any' if low is None else low} to {'any' if high is None else high}"
    if above is not None and min(values) <= above:
        return f"{value!r} is out of range: must be greater than {above}"
    return None


@functools.cache
def _annotations(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)


def checked(section: type, name: str, value: Any) -> tuple[Any, str | None]:
    """``value`` as field ``name`` of ``section`` has it; the second item says why it is none, or None."""
    spec = next(f for f in dataclasses.fields(section) if f.name == name)
    typed, reason = _typed(value, _annotations(section)[name])
    return typed, reason or (None if typed is None else _out_of_range(typed, spec.metadata))


def parse(section: type, mapping: Any, where: str) -> tuple[Any, list[Problem]]:
    """Build ``section`` from ``mapping``; returns (instance or None, all problems found), keys prefixed by ``where``."""
    if not isinstance(mapping, Mapping):
        return None, [Problem(where, f"expected a section with keys, got {mapping!r}")]
    fields = {f.name: f for f in dataclasses.fields(section)}
    problems, values = [], {}
    for key in mapping:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(fields)}"
            problems.append(Problem(f"{where}.{key}", f"unknown key{hint}"))
    for name, spec in fields.items():
        if name not in mapping:
            if spec.default is MISSING and spec.default_factory is MISSING:
                problems.append(Problem(f"{where}.{name}", "missing key"))
            continue
        value, reason = checked(section, name, mapping[name])
        if reason:
            problems.append(Problem(f"{where}.{name}", reason))
        values[name] = value
    if problems:
        return None, problems
    instance = section(**values)
    check = getattr(instance, "problems", None)
    problems = [Problem(f"{where}.{key}", message) for key, message in check()] if check else []
    return (None if problems else instance), problems
