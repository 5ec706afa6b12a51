"""What the compiler made of a condition, as far as it is needed to bound its work.

The compiler's answer is serialized as `cel.expr.CheckedExpr`; the fields that are read here are declared with their
numbers in cel-spec (proto/cel/expr/checked.proto, syntax.proto), because no package ships these messages for Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message, message_factory

from stemma.errors import InvalidInput
from stemma.rules.language import LISTS, MAX_ITEMS, MAX_TEXT, OVERLOADS, Type, holds_nul

_LONG_TEXT: Final = 64

# name, number, type; a leading * repeats; types that are capitalized are messages below.
_MESSAGES: Final[dict[str, tuple[str, ...]]] = {
    "Constant": ("double_value 5 double", "string_value 6 string", "bytes_value 7 bytes"),
    "Ident": ("name 1 string",),
    "Call": ("target 1 Expr", "function 2 string", "*args 3 Expr"),
    "List": ("*elements 1 Expr",),
    "Comprehension": (
        "iter_var 1 string",
        "iter_range 2 Expr",
        "accu_var 3 string",
        "accu_init 4 Expr",
        "loop_condition 5 Expr",
        "loop_step 6 Expr",
        "result 7 Expr",
    ),
    "Expr": (
        "id 2 int64",
        "const_expr 3 Constant",
        "ident_expr 4 Ident",
        "call_expr 6 Call",
        "list_expr 7 List",
        "comprehension_expr 9 Comprehension",
    ),
    "Reference": ("*overload_id 3 string",),
    "ReferenceEntry": ("key 1 int64", "value 2 Reference"),
    "CheckedExpr": ("*reference_map 2 ReferenceEntry", "expr 4 Expr"),
}


def _message(name: str) -> type[message.Message]:
    """The class of one of the messages above, in a pool of its own."""
    field = descriptor_pb2.FieldDescriptorProto
    types = {
        "bytes": field.TYPE_BYTES,
        "double": field.TYPE_DOUBLE,
        "int64": field.TYPE_INT64,
        "string": field.TYPE_STRING,
    }
    file = descriptor_pb2.FileDescriptorProto(name="stemma/rules.proto", package="stemma.rules", syntax="proto2")
    for title, members in _MESSAGES.items():
        declared = file.message_type.add(name=title)
        for member in members:
            label, number, kind = member.split()
            declared.field.add(
                name=label.lstrip("*"),
                number=int(number),
                label=field.LABEL_REPEATED if label.startswith("*") else field.LABEL_OPTIONAL,
                type=types.get(kind, field.TYPE_MESSAGE),
                type_name=None if kind in types else f".stemma.rules.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call, unused-ignore]
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"stemma.rules.{name}"))


_CheckedExpr: Final = _message("CheckedExpr")


def cost(serialized: bytes, variables: Mapping[str, Type]) -> int:
    """The most units of work that one evaluation can take.

    Raises InvalidInput for an operation that is not in the table, and for text that holds U+0000, at which CEL's
    bindings cut texts off.
    """
    packed = any_pb2.Any.FromString(serialized)
    checked: Any = _CheckedExpr()
    try:
        checked.ParseFromString(packed.value)
    except message.DecodeError as error:
        raise InvalidInput("rule_too_deep", "The condition is nested too deeply.", field="when") from error
    overloads = {entry.key: tuple(entry.value.overload_id) for entry in checked.reference_map}
    return _Bound(overloads, variables).of(checked.expr)


class _Bound:
    """The bound of a condition, part by part; the parser has limited how deep parts are nested."""

    def __init__(self, overloads: Mapping[int, tuple[str, ...]], variables: Mapping[str, Type]) -> None:
        self.overloads = overloads
        self.variables = variables

    def of(self, expr: Any) -> int:
        if expr.HasField("const_expr"):
            return self._constant(expr.const_expr)
        if expr.HasField("ident_expr"):
            # A list is handed to CEL item by item, at each mention.
            return MAX_ITEMS if self.variables.get(expr.ident_expr.name) in LISTS else 1
        if expr.HasField("call_expr"):
            return self._call(expr)
        if expr.HasField("list_expr"):
            return self._list(expr.list_expr.elements)
        if expr.HasField("comprehension_expr"):
            return self._comprehension(expr.comprehension_expr)
        raise _not_allowed("Fields, maps and messages")

    def _constant(self, constant: Any) -> int:
        if constant.HasField("bytes_value"):
            raise _not_allowed("Bytes")
        text = constant.string_value
        if "\0" in text:
            raise holds_nul()
        if len(text) > MAX_TEXT:
            raise InvalidInput("rule_text_too_long", f"A text has more than {MAX_TEXT:,} characters.", field="when")
        return 1 + len(text) // _LONG_TEXT

    def _list(self, elements: Any) -> int:
        """Lists hold constants and single values: a list of lists could be larger than any of its parts."""
        for element in elements:
            ident = element.HasField("ident_expr") and self.variables.get(element.ident_expr.name) not in LISTS
            if not (ident or element.HasField("const_expr")):
                raise _not_allowed("A list of anything but constants and variables")
        return 1 + sum(map(self.of, elements))

    def _call(self, expr: Any) -> int:
        call = expr.call_expr
        parts = [*([call.target] if call.HasField("target") else []), *call.args]
        chosen = self.overloads.get(expr.id, ())
        if not chosen or not all(overload in OVERLOADS for overload in chosen):
            raise _not_allowed(f"The operation {_readable(call.function, chosen)}")
        if "divide_double" in chosen and not call.args[1].const_expr.double_value:
            # What is divided by zero is infinite, which is more than any limit.
            raise _not_allowed("Division by anything but a constant")
        items = max((self._items(part) for part in parts), default=1)
        return 1 + sum(map(self.of, parts)) + max(OVERLOADS[overload] for overload in chosen) * items

    def _items(self, expr: Any) -> int:
        """How many items a list has at most; 1 for what is none."""
        if expr.HasField("list_expr"):
            return max(1, len(expr.list_expr.elements))
        if expr.HasField("call_expr"):
            return max([1, *map(self._items, expr.call_expr.args)])
        listed = expr.HasField("ident_expr") and self.variables.get(expr.ident_expr.name) in LISTS
        return MAX_ITEMS if listed else 1

    def _comprehension(self, part: Any) -> int:
        each = 1 + self.of(part.loop_condition) + self.of(part.loop_step)
        once = self.of(part.iter_range) + self.of(part.accu_init) + self.of(part.result)
        return once + self._items(part.iter_range) * each


def _readable(function: str, overloads: tuple[str, ...]) -> str:
    kind = f" ({', '.join(overloads)})" if overloads else ""
    return f"`{function.strip('_@')}`{kind}"


def _not_allowed(what: str) -> InvalidInput:
    hint = "docs/SECURITY.md lists what a condition may use."
    return InvalidInput("rule_not_allowed", f"{what} cannot be used in a condition.", field="when", hint=hint)
