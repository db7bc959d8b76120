"""Limits of option fields, declared once in the annotation of a dataclass and checked when one is made.

    steps: Annotated[int, Limits(1)] = 100

Messages name a field in backticks, ```steps` 0: expected 1 or more``; the command line prints its own option there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from unsmear.errors import UsageError


class OptionError(UsageError, ValueError):
    """A field whose value cannot be right."""

    def __init__(self, name: str, value: Any, expected: str):
        """Args: name: of the field; value: what it holds; expected: what is allowed, and what to do."""
        super().__init__(f"`{name}` {shown(value)}: expected {expected}")
        self.field, self.value, self.expected = name, value, expected

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.field, self.value, self.expected)


@dataclass(frozen=True)
class Limits:
    """Least and most of a number, or of each number of a tuple or list; None for no limit.

    ``above`` excludes ``least``, ``below`` excludes ``most``; ``ordered`` requires (low, high); ``step`` requires
    multiples of it; ``count`` is the least number of values; ``unit`` is appended to the message.
    """

    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False
    ordered: bool = False
    step: int | None = None
    count: int = 0
    unit: str = ""

    def allow(self, value: Any) -> bool:
        """Whether ``value`` keeps them; what is no number, nor a tuple of numbers, does."""
        if isinstance(value, tuple | list) and len(value) < self.count:
            return False
        numbers = [v for v in (value if isinstance(value, tuple | list) else (value,)) if isinstance(v, int | float)]
        low = self.least is None or all(v > self.least if self.above else v >= self.least for v in numbers)
        high = self.most is None or all(v < self.most if self.below else v <= self.most for v in numbers)
        multiples = self.step is None or all(v % self.step == 0 for v in numbers)
        return low and high and multiples and (not self.ordered or numbers == sorted(numbers))

    def __str__(self) -> str:
        least = "" if self.least is None else f"{self.least:g} {'<' if self.above else '<='} "
        most = "" if self.most is None else f" {'<' if self.below else '<='} {self.most:g}"
        if self.ordered:
            words = f"{least}MIN <= MAX{most}"
        elif self.least is not None and self.most is not None:
            words = f"{'above ' if self.above else ''}{self.least:g} to {'below ' if self.below else ''}{self.most:g}"
        elif self.least is not None:
            words = f"a number above {self.least:g}" if self.above else f"{self.least:g} or more"
        else:
            words = f"{self.most:g} at most"
        if self.step is not None:
            words = f"a multiple of {self.step}, {words}"
        if self.count:
            words = f"at least {self.count} of {words}"
        return f"{words} ({self.unit})" if self.unit else words


Share = Annotated[float, Limits(0, 1)]


def check(options: Any) -> None:
    """Compare a dataclass with the numbers, ``Limits`` and ``Literal`` of its annotations; for ``__post_init__``.

    Raises:
        OptionError: of the first field that does not keep them.
    """
    for name, hint, limits, choices in _rules(type(options)):  # type: ignore[arg-type]
        value = getattr(options, name)
        if not _is_number(value, hint):
            raise OptionError(name, value, described(hint))
        if limits is not None and not limits.allow(value):
            raise OptionError(name, value, str(limits))
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(name, value, "a finite number")
        if choices and value not in choices:
            raise OptionError(name, value, described(Literal[choices]))


@cache
def _rules(kind: type) -> tuple[tuple[str, Any, Limits | None, tuple[Any, ...]], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple((f.name, hints[f.name], limits_of(hints[f.name]), _choices(hints[f.name])) for f in fields(kind))


def _is_number(value: Any, hint: Any) -> bool:
    """Whether a value is a number as its hint requires; what is not hinted as a number is."""
    kinds = {get_args(part)[0] if get_origin(part) is Annotated else part for part in flat(hint)}
    kinds = {kind for part in kinds for kind in flat(part)}
    if not kinds <= {int, float, NoneType}:
        return True
    if value is None or isinstance(value, bool):
        return value is None and NoneType in kinds
    return isinstance(value, Real if float in kinds else Integral)


def limits_of(hint: Any) -> Limits | None:
    """The ``Limits`` of an annotation, those of ``X`` in ``X | None`` too."""
    for part in flat(hint):
        if get_origin(part) is Annotated:
            found = next((extra for extra in part.__metadata__ if isinstance(extra, Limits)), None)
            if found is not None:
                return found
    return None


def _choices(hint: Any) -> tuple[Any, ...]:
    """Allowed values of a hint that is a ``Literal``, or one or None."""
    parts = list(flat(hint))
    literals = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    rest = [part for part in parts if get_origin(part) is not Literal]
    return () if not literals or any(p is not NoneType for p in rest) else (*literals, *([None] if rest else []))


def flat(hint: Any) -> Iterator[Any]:
    """The members of a union, ``hint`` itself where it is none."""
    if get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from flat(part)
    else:
        yield hint


_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "texts"),
    NoneType: ("null", "null"),
}


def described(hint: Any, many: bool = False) -> str:
    """What an annotation allows, in words: ``a whole number or null``."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    parts = list(flat(hint))
    if len(parts) > 1:
        return " or ".join(described(part, many) for part in parts)
    if get_origin(hint) is Literal:
        names = [str(value) for value in get_args(hint)]
        return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    if get_origin(hint) in (list, tuple):
        kinds = [kind for kind in get_args(hint) if kind is not Ellipsis]
        count = f"{len(kinds)} " if get_origin(hint) is tuple and Ellipsis not in get_args(hint) else ""
        return f"a list of {count}{described(kinds[0], many=True)}"
    return _WORDS[hint][many] if hint in _WORDS else "a mapping of keys and values"


def shown(value: Any) -> str:
    """A value as messages show it: short, and on one line."""
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    text = f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
    text = " ".join(text.split()) or "''"
    return text if len(text) <= 60 else f"{text[:59]}…"


def counted(number: int, noun: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
