"""Compiling conditions and asking whether they hold.

A condition holds when its value *is* True. CEL's bindings return errors as texts, which are true to Python, and cut
texts off at U+0000; both stop here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from stemma.errors import InvalidInput
from stemma.rules.language import LISTS, MAX_COST, MAX_EXPRESSION, MAX_ITEMS, MAX_NUMBER, MAX_TEXT, Type, holds_nul

if TYPE_CHECKING:
    from cel_expr_python import cel

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
# https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax
_WORDS: Final = (
    "in as break const continue else for function if import let loop package namespace return var void while true"
    " false null bool bytes double duration dyn int list map null_type string timestamp type uint size has all exists"
    " exists_one map filter"
)
_PLACE: Final = re.compile(r"<input>:(-?\d+):(-?\d+): ([^\n]*)")
_MIXED: Final = re.compile(r"\((double, int|int, double)\)")
_STATUS: Final = re.compile(r"^[A-Z_]+: | \[[A-Z_]+\]$")
_KEPT_LANGUAGES: Final = 128
_KEPT_CONDITIONS: Final = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a condition holds; `error` says why that cannot be told, and then it does not."""

    holds: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition; `cost` is the most units of work that asking takes."""

    text: str
    cost: int
    _expression: cel.Expression

    def ask(self, values: Values) -> Answer:
        """Whether it holds with these values, which are those of its own language."""
        try:
            value = self._expression.eval(values.activation).value()
        except Exception as error:
            return Answer(False, _told(error))
        if value is True:
            return Answer(True)
        return Answer(False) if value is False else Answer(False, _told(value))


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a language's variables, as CEL takes them."""

    activation: cel.Activation


class Language:
    """CEL over declared variables. Get one from `language`; it may be used by several threads."""

    def __init__(self, variables: Mapping[str, Type]) -> None:
        """Raises InvalidInput for a name that is none."""
        for name in variables:
            if not _NAME.fullmatch(name) or name in _WORDS.split():
                hint = "Write lower-case letters, digits and `_`, and none of CEL's own words."
                raise InvalidInput("variable_invalid", f"{name!r} cannot name a variable.", field=name, hint=hint)
        self.variables = dict(variables)
        # Imported here: the module of a policy is imported by many that never ask a condition.
        from cel_expr_python import cel

        cel_types = {
            Type.NUMBER: cel.Type.DOUBLE,
            Type.BOOLEAN: cel.Type.BOOL,
            Type.TEXT: cel.Type.STRING,
            Type.NUMBERS: cel.Type.List(cel.Type.DOUBLE),
            Type.TEXTS: cel.Type.List(cel.Type.STRING),
        }
        self._boolean = cel.Type.BOOL
        self._env = cel.NewEnv(variables={name: cel_types[kind] for name, kind in variables.items()})
        self._compiled = lru_cache(maxsize=_KEPT_CONDITIONS)(self._compile)

    def compile(self, text: str) -> Condition:
        """The condition that a text says; kept, so that the same text is compiled once.

        Raises InvalidInput(field="when") for what is no condition, is too long or too deep, uses what conditions may
        not use, or could take more than `MAX_COST`.
        """
        if len(text) > MAX_EXPRESSION:
            what = f"The condition has more than {MAX_EXPRESSION:,} characters."
            raise InvalidInput("rule_too_long", what, field="when", hint="Make several rules of it.")
        if "\0" in text:
            raise holds_nul()
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidInput("rule_invalid", "The condition holds half a surrogate pair.", field="when")
        return self._compiled(text)

    def bind(self, values: Mapping[str, Any]) -> Values:
        """The values of all variables; raises InvalidInput that names the first that is not of its type."""
        return Values(
            self._env.Activation({name: checked(name, kind, values.get(name)) for name, kind in self.variables.items()})
        )

    def _compile(self, text: str) -> Condition:
        from stemma.rules.syntax import cost

        try:
            expression = self._env.compile(text)
        except Exception as error:
            raise _invalid(str(error)) from error
        if expression.return_type() != self._boolean:
            hint = "Compare it with something, as in `amount > 3.0`."
            raise InvalidInput("rule_not_boolean", "The condition is neither true nor false.", field="when", hint=hint)
        work = cost(expression.serialize(), self.variables)
        if work > MAX_COST:
            what = f"The condition could take {work:,} units of work; at most {MAX_COST:,} are allowed."
            raise InvalidInput("rule_too_costly", what, field="when", hint="Nest no loops over lists.")
        return Condition(text, work, expression)


@lru_cache(maxsize=_KEPT_LANGUAGES)
def language(variables: tuple[tuple[str, Type], ...]) -> Language:
    """The language with these variables; kept with the conditions that were compiled in it."""
    return Language(dict(variables))


def checked(name: str, kind: Type, value: Any) -> Any:
    """The value as CEL takes it; raises InvalidInput where it is not of this type, or larger than values may be."""
    if kind in LISTS:
        if type(value) is not list or len(value) > MAX_ITEMS:
            raise _mistyped(name, f"is no list of at most {MAX_ITEMS} items")
        return [_scalar(name, Type.TEXT if kind is Type.TEXTS else Type.NUMBER, item) for item in value]
    return _scalar(name, kind, value)


def _scalar(name: str, kind: Type, value: Any) -> bool | float | str:
    if kind is Type.BOOLEAN:
        if type(value) is not bool:
            raise _mistyped(name, "is neither true nor false")
        return value
    if kind is Type.NUMBER:
        if type(value) not in (int, float) or not abs(value) <= MAX_NUMBER:
            raise _mistyped(name, f"is no number of at most {MAX_NUMBER:,}")
        return float(value)
    if type(value) is not str or len(value) > MAX_TEXT:
        raise _mistyped(name, f"is no text of at most {MAX_TEXT:,} characters")
    if "\0" in value or (not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)):
        raise _mistyped(name, "holds a character that is none")
    return value


def _mistyped(name: str, what: str) -> InvalidInput:
    return InvalidInput("input_invalid", f"{name} {what}.", field=name)


def _invalid(said: str) -> InvalidInput:
    """What the compiler said, in one line, with the place where it said one."""
    if "recursion" in said:
        return InvalidInput("rule_too_deep", "The condition is nested too deeply.", field="when")
    found = _PLACE.search(said)
    if found is None:
        return InvalidInput("rule_invalid", f"This is no condition: {_told(said)}.", field="when")
    line, column, what = int(found[1]), int(found[2]), found[3].strip().rstrip(".")
    hint = "Write numbers with a point: 3.0." if _MIXED.search(what) else None
    where = f" (character {column} of line {line})" if line > 0 else ""
    return InvalidInput("rule_invalid", f"This is no condition: {what}{where}.", field="when", hint=hint)


def _told(error: object) -> str:
    """An error's first line, without what it says of values: CEL quotes keys and texts."""
    return _STATUS.sub("", _STATUS.sub("", str(error).partition("\n")[0]))[:200]
