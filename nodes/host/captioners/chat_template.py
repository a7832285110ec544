"""Chat templates of caption models, which anybody may have written, rendered within bounds.

The sandbox of Jinja keeps a template away from Python, but not from endless loops, nor from a text
that one operation makes as long as the memory. So here no value grows beyond what a prompt can
need, everything that could make a larger one in a single step is checked before, and what is left,
steps of Python, ends at a deadline.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from .damage import reason

MOST_SECONDS = 5.0
MOST_TEMPLATE = 2**17
"""Letters; the longest of released models have some 30,000"""
MOST = 2**18
"""Letters and items of a value, and letters of what is rendered"""
MOST_LEVELS = 64
"""Of lists and objects in each other"""
MOST_BITS = 4096
"""Of a whole number"""
MOST_INDENT = 8

TEXT_METHODS = frozenset(
    (
        *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "rpartition"),
        *("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "removeprefix"),
        *("removesuffix", "replace", "join", "upper", "lower", "title", "capitalize", "casefold"),
        *("swapcase", "isalpha", "isdigit", "isdecimal", "isnumeric", "isalnum", "isspace"),
        *("isupper", "islower", "istitle"),
    )
)
METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, TEXT_METHODS),
    (dict, frozenset({"get", "items", "keys", "values", "copy"})),
    ((list, tuple), frozenset({"index", "count", "copy"})),  # pyright: ignore[reportAssignmentType]
)
KEPT_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float"),
    *("forceescape", "int", "items", "last", "length", "list", "lower", "map", "max", "min"),
    *("reject", "rejectattr", "reverse", "safe", "select", "selectattr", "sort", "string"),
    *("title", "trim", "truncate", "unique", "upper", "wordcount"),
)
# Plain conversions without a width, each of which gives no more than it is given.
CONVERSIONS = re.compile(r"(?:[^%]|%[sdif%])*", re.S)
JOINED, CHECKED = "~", "[]"
"""Names of filters that no template can write"""


class TooMuch(TemplateError):
    """The template does what no prompt needs; the text goes after its name."""


class _OutOfTime(BaseException):
    """Not an Exception, which Jinja may handle."""


def rendered(template: str, values: Mapping[str, Any]) -> str:
    """The text that a template makes of values; ValueError with the reason if it makes none."""
    if len(template) > MOST_TEMPLATE:
        raise ValueError(f"it has {len(template)} letters, and {MOST_TEMPLATE} are read")
    before = sys.gettrace()
    sys.settrace(_deadline(MOST_SECONDS))
    try:
        environment = _Bounded()
        tree = _Checks().visit(environment.parse(template))
        return environment.from_string(tree).render(**values)
    except _OutOfTime:
        raise ValueError(f"it takes more than {MOST_SECONDS:g} seconds") from None
    # The code that a template becomes can fail in as many ways as Python.
    except Exception as error:
        raise ValueError(reason(error)) from error
    finally:
        sys.settrace(before)


def _deadline(seconds: float) -> Callable[[Any, str, Any], Any]:
    """What raises at the first step of Python after this time, in the thread that traces by it."""
    end = time.monotonic() + seconds

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise _OutOfTime
        return trace

    return trace


def checked(value: Any) -> Any:
    """The value, unless it is larger than a prompt needs."""
    _check_size(size(value))
    return value


def _check_size(length: int) -> None:
    if length > MOST:
        raise TooMuch(f"it makes a value of more than {MOST} letters")


def size(value: Any) -> int:
    """Letters and items of a value with all that is in it; more than `MOST` is not counted on."""
    total, left = 0, [(value, 0)]
    while left and total <= MOST:
        one, level = left.pop()
        total += 1
        if isinstance(one, str | bytes):
            total += len(one)
        elif isinstance(one, int):
            total += MOST if one.bit_length() > MOST_BITS else 0
        elif isinstance(one, dict | list | tuple | set | frozenset):
            total += MOST if level > MOST_LEVELS else len(one)
            if total <= MOST:
                parts = itertools.chain(one, one.values()) if isinstance(one, dict) else one
                left += [(part, level + 1) for part in parts]
    return total


def join(pieces: Iterable[Any], between: str = "") -> str:
    """Texts one after the other, which are counted before they are put together."""
    texts, total = list[str](), 0
    for piece in pieces:
        texts.append(piece if isinstance(piece, str) else str(piece))
        total += len(texts[-1]) + len(between)
        _check_size(total)
    return between.join(texts)


class _Namespace(Namespace):
    """Variables of a template; none has a name of Python's own machinery."""

    def __init__(*of: Any, **values: Any) -> None:
        attributes = dict(*of[1:], **values)
        if any(str(name).startswith("_") for name in attributes):
            raise SecurityError("a variable of a namespace begins with _")
        Namespace.__init__(of[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError("a variable of a namespace begins with _")
        super().__setitem__(name, value)


class _Generation(Extension):
    """transformers' mark around what an assistant says, which matters to training alone."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Checks(NodeTransformer):
    """Lets every literal of a list or object, and every ~, pass a check."""

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._filtered(node, CHECKED)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._filtered(node, CHECKED)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._filtered(node, CHECKED) if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        pieces = nodes.List(node.nodes, lineno=node.lineno, environment=node.environment)
        return self._filtered(pieces, JOINED)

    def _filtered(self, node: nodes.Expr, name: str) -> nodes.Node:
        inner = self.generic_visit(node)
        made = nodes.Filter(inner, name, [], [], None, None, lineno=node.lineno)
        return made.set_environment(node.environment)  # pyright: ignore[reportArgumentType]


class _Bounded(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with transformers' additions, in which no value grows beyond `MOST`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})
    concat = staticmethod(join)  # pyright: ignore[reportAssignmentType]

    def __init__(self) -> None:
        extensions = [_Generation, loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.filters = {name: _checking(FILTERS[name]) for name in KEPT_FILTERS}
        self.filters |= {"join": _join, "replace": _replace, "indent": _indent, "tojson": _tojson}
        self.filters |= {JOINED: join, CHECKED: checked}
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": _Namespace,
            "cycler": Cycler,
            "joiner": Joiner,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def wrap_str_format(self, value: Any) -> None:
        """`format` is not among the methods that a text has here."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if not super().is_safe_attribute(obj, attr, value):
            return False
        for kind, methods in METHODS:
            if isinstance(obj, kind):
                return attr in methods
        # Loops, macros and namespaces.
        return type(obj).__module__.startswith("jinja2.") or isinstance(obj, _Namespace)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and __obj.__name__ == "replace":
            _check_replace(owner, *args)
        elif isinstance(owner, str) and __obj.__name__ == "join":
            args = (checked([*itertools.islice(args[0], MOST)]), *args[1:])
            _check_size(size(args[0]) + len(args[0]) * len(owner))
        return checked(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, str | Sequence) and isinstance(times, int):
                    _check_size(size(one) * times)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(MOST + 1 if left.bit_length() * right > MOST_BITS else 0)
        elif operator == "%" and isinstance(left, str):
            if not CONVERSIONS.fullmatch(left):
                raise TooMuch("it formats a text with a width")
            _check_size(left.count("%") * size(right))
        return checked(super().call_binop(context, operator, left, right))


def _checking(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result is checked; what marks its arguments for Jinja stays."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        return checked(function(*arguments, **named))

    return wrapped


@functools.wraps(FILTERS["join"])
def _join(eval_ctx: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> Any:
    items = checked([*itertools.islice(value, MOST)])
    _check_size(size(items) + len(items) * len(str(d)))
    return checked(FILTERS["join"](eval_ctx, items, d, attribute))


@functools.wraps(FILTERS["replace"])
def _replace(eval_ctx: Any, s: str, old: str, new: str, count: int | None = None) -> Any:
    _check_replace(str(s), str(old), str(new))
    return checked(FILTERS["replace"](eval_ctx, s, old, new, count))


def _check_replace(text: str, old: str, new: str, *count: int) -> None:
    _check_size(len(text) + text.count(old) * len(new))


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
    step = len(width) if isinstance(width, str) else width
    _check_size(len(s) + len(s.splitlines()) * step)
    return checked(FILTERS["indent"](s, width, first, blank))


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not (isinstance(indent, int) and indent <= MOST_INDENT):
        raise TooMuch(f"it indents by more than {MOST_INDENT}")
    if separators is not None and size(separators) > MOST_INDENT:
        raise TooMuch(f"it separates by more than {MOST_INDENT}")
    return checked(
        json.dumps(
            checked(x),
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )
    )


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    if not re.fullmatch(r"(?:[^%]|%[-#]?[a-zA-Z%]){0,100}", format, re.S):
        raise TooMuch("it formats a date with a width")
    return datetime.now().strftime(format)
