# SPDX-License-Identifier: Apache-2.0
"""Expressions in CEL: typed before they are kept, evaluated by common-expression-language.

The library compiles what it is given and finds a wrong name or type only when it evaluates. So an
expression is read here first, against the fields of its device class, in the part of CEL
(github.com/google/cel-spec, langdef.md) whose cost is its length: comparisons, arithmetic, logic,
``in`` a list of literals, ``?:`` and tests of a text's ends. No macros, regular expressions,
conversions or sums of texts, hence no loop and no text that grows.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

from ingest.conditions.fields import STATES, Fields, FieldType

DEPTH_MAX: Final = 16
NODES_MAX: Final = 200

Type = Literal["number", "truth", "word"]
_METHODS: Final = ("contains", "endsWith", "startsWith")
_MACROS: Final = {"all", "exists", "exists_one", "filter", "has", "map"}
_COMPARED: Final = {"==", "!=", "<", "<=", ">", ">=", "in"}
_WORDS_OF_CEL: Final = {"true", "false", "null", "in"}
_TOKEN: Final = re.compile(
    r"""
    (?P<number>(?:\d+\.\d+|\d+|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<text>"[^"\\\n\r]*"|'[^'\\\n\r]*')
    | (?P<sign>\|\||&&|==|!=|<=|>=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.ASCII | re.VERBOSE,
)
_SPACE: Final = re.compile(r"[ \t\r\n]*", re.ASCII)


class ExpressionError(ValueError):
    """An expression that is refused.

    Attributes:
        rule: A code, such as ``expression.unknown_field``.
        position: Where it begins: characters from the start.
        detail: What was found, and what would be allowed.
    """

    def __init__(self, rule: str, position: int, **detail: object) -> None:
        """Keep them apart from the text."""
        super().__init__(f"{rule} at {position}")
        self.rule = rule
        self.position = position
        self.detail = detail


class _Token(NamedTuple):
    what: Literal["number", "name", "text", "sign", "end"]
    text: str
    position: int


class _Part(NamedTuple):
    """A typed part of an expression, and how it is written for the library."""

    type: Type
    cel: str
    position: int
    field: FieldType | None = None
    literal: str | None = None


@dataclass(frozen=True, slots=True)
class Typed:
    """An expression that fits: as the library reads it, and the fields it asks for.

    ``states`` are those that are known of any device; ``words`` the texts that stand in it.
    """

    cel: str
    names: frozenset[str]
    event_names: frozenset[str]
    states: frozenset[str]
    words: frozenset[str]


def read(expression: str, fields: Fields) -> Typed:
    """Type an expression against the fields of a device class.

    Raises:
        ExpressionError: It does not fit, or could cost too much.
    """
    parser = _Parser(_tokens(expression), fields)
    whole = parser.condition()
    token = parser.token
    if token.what != "end":
        raise _unexpected(token)
    if whole.type != "truth":
        raise ExpressionError("expression.not_boolean", whole.position, found=whole.type)
    words = (token.text[1:-1] for token in parser.tokens if token.what == "text")
    states = parser.names & STATES.keys()
    return Typed(
        whole.cel,
        frozenset(parser.names - states),
        frozenset(parser.event_names),
        frozenset(states),
        frozenset(words),
    )


class _Program(Protocol):
    def execute(self, context: dict[str, Any]) -> object:
        """Evaluate it."""
        ...


class Program:
    """A typed expression, ready to be asked."""

    def __init__(self, typed: Typed) -> None:
        """Compile it."""
        # Here, because the library brings its command line along: some ten packages that only
        # those need who have such a rule.
        import cel

        self.typed = typed
        self._program: _Program = cel.compile(typed.cel)

    def ask(self, values: Mapping[str, Any], event: Mapping[str, Any] | None) -> bool | None:
        """Return what it says; None where a field that it depends on was not told.

        As in CEL, ``a || b`` holds when one of them does, whether or not the other is known.
        """
        known: dict[str, Any] = dict(values)
        known["event"] = {} if event is None else dict(event)
        try:
            holds = self._program.execute(known)
        except (KeyError, RuntimeError, TypeError, ValueError):
            # Types and functions were checked: what is left is a field that was not told.
            return None
        return holds if isinstance(holds, bool) else None


def _tokens(expression: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while True:
        space = _SPACE.match(expression, at)
        assert space is not None
        at = space.end()
        if at == len(expression):
            found.append(_Token("end", "", at))
            return found
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ExpressionError("expression.syntax", at, found=expression[at])
        what: Any = match.lastgroup
        found.append(_Token(what, match[0], at))
        at = match.end()
        if what == "number" and expression[at : at + 1].isidentifier():
            raise ExpressionError("expression.syntax", at, found=expression[at])


def _unexpected(token: _Token) -> ExpressionError:
    return ExpressionError("expression.syntax", token.position, found=token.text)


@dataclass(slots=True)
class _Parser:
    tokens: list[_Token]
    fields: Fields
    names: set[str] = field(default_factory=set[str])
    event_names: set[str] = field(default_factory=set[str])
    _next: int = 0
    _depth: int = 0
    _nodes: int = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self._next]

    def _take(self) -> _Token:
        token = self.tokens[self._next]
        self._next += 1
        return token

    def _skip(self, sign: str) -> bool:
        """Go on if the next token is this sign."""
        if self.token.what == "sign" and self.token.text == sign:
            self._next += 1
            return True
        return False

    def _need(self, sign: str) -> None:
        if not self._skip(sign):
            raise ExpressionError(
                "expression.syntax", self.token.position, found=self.token.text, expected=sign
            )

    def _part(self, part: _Part) -> _Part:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise ExpressionError("expression.too_large", part.position, max=NODES_MAX)
        return part

    def _down(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ExpressionError("expression.too_deep", self.token.position, max=DEPTH_MAX)

    def condition(self) -> _Part:
        """``a ? b : c``, and all that binds closer."""
        self._down()
        asked = self._any()
        if self._skip("?"):
            _want(asked, "truth")
            yes = self._any()
            self._need(":")
            no = self.condition()
            _want(no, yes.type)
            cel = f"({asked.cel} ? {yes.cel} : {no.cel})"
            asked = self._part(_Part(yes.type, cel, asked.position))
        self._depth -= 1
        return asked

    def _any(self) -> _Part:
        left = self._all()
        while self._skip("||"):
            left = self._logic(left, "||", self._all())
        return left

    def _all(self) -> _Part:
        left = self._compared()
        while self._skip("&&"):
            left = self._logic(left, "&&", self._compared())
        return left

    def _logic(self, left: _Part, sign: str, right: _Part) -> _Part:
        _want(left, "truth")
        _want(right, "truth")
        return self._part(_Part("truth", f"({left.cel} {sign} {right.cel})", left.position))

    def _compared(self) -> _Part:
        left = self._sum()
        while self.token.text in _COMPARED and self.token.what != "text":
            sign = self._take()
            if sign.text == "in":
                left = self._listed(left)
                continue
            right = self._sum()
            if sign.text in {"==", "!="}:
                _want(right, left.type)
            else:
                _want(left, "number")
                _want(right, "number")
            _check_word(left, right)
            _check_word(right, left)
            cel = f"({left.cel} {sign.text} {right.cel})"
            left = self._part(_Part("truth", cel, left.position))
        return left

    def _listed(self, left: _Part) -> _Part:
        self._need("[")
        items: list[str] = []
        while True:
            item = self._part(self._literal())
            _want(item, left.type)
            _check_word(left, item)
            items.append(item.cel)
            if not self._skip(","):
                break
        self._need("]")
        return self._part(_Part("truth", f"({left.cel} in [{', '.join(items)}])", left.position))

    def _literal(self) -> _Part:
        sign = self.token
        is_negative = self._skip("-")
        token = self._take()
        if token.what == "number":
            number = _number(token)
            return number._replace(cel=f"-{number.cel}") if is_negative else number
        if token.what == "text" and not is_negative:
            return _text(token)
        raise ExpressionError("expression.literal", sign.position)

    def _sum(self) -> _Part:
        left = self._product()
        while self.token.what == "sign" and self.token.text in {"+", "-"}:
            left = self._reckoned(left, self._take(), self._product)
        return left

    def _product(self) -> _Part:
        left = self._signed()
        while self.token.what == "sign" and self.token.text in {"*", "/", "%"}:
            left = self._reckoned(left, self._take(), self._signed)
        return left

    def _reckoned(self, left: _Part, sign: _Token, operand: Callable[[], _Part]) -> _Part:
        if sign.text == "%":
            raise ExpressionError("expression.operator", sign.position, found="%")
        if left.type == "word":
            raise ExpressionError("expression.text_sum", sign.position, found=sign.text)
        right = operand()
        _want(left, "number")
        _want(right, "number")
        return self._part(_Part("number", f"({left.cel} {sign.text} {right.cel})", left.position))

    def _signed(self) -> _Part:
        sign = self.token
        if sign.what != "sign" or sign.text not in {"!", "-"}:
            return self._member()
        self._take()
        self._down()
        inner = self._signed()
        self._depth -= 1
        type_: Type = "truth" if sign.text == "!" else "number"
        _want(inner, type_)
        # A space, or two of them would be read as one sign.
        return self._part(_Part(type_, f"{sign.text}({inner.cel})", sign.position))

    def _member(self) -> _Part:
        part = self._primary()
        while True:
            token = self.token
            if self._skip("["):
                raise ExpressionError("expression.index", token.position)
            if not self._skip("."):
                return part
            part = self._method(part, self._take())

    def _method(self, part: _Part, name: _Token) -> _Part:
        if name.what != "name":
            raise _unexpected(name)
        if self.token.text != "(":
            raise ExpressionError("expression.unknown_field", name.position, found=name.text)
        _refuse_function(name)
        self._need("(")
        argument = self._take()
        if argument.what != "text":
            raise ExpressionError("expression.literal", argument.position)
        self._need(")")
        _want(part, "word")
        return self._part(_Part("truth", f"{part.cel}.{name.text}({argument.text})", part.position))

    def _primary(self) -> _Part:
        token = self._take()
        match token.what:
            case "number":
                return self._part(_number(token))
            case "text":
                return self._part(_text(token))
            case "name":
                return self._part(self._named(token))
            case "sign" if token.text == "(":
                inner = self.condition()
                self._need(")")
                return inner._replace(position=token.position)
            case "sign" if token.text in {"[", "{"}:
                raise ExpressionError("expression.collection", token.position)
            case _:
                raise _unexpected(token)

    def _named(self, token: _Token) -> _Part:
        name = token.text
        if name in {"true", "false"}:
            return _Part("truth", name, token.position)
        if name in _WORDS_OF_CEL:
            raise _unexpected(token)
        if self.token.text == "(" and self.token.what == "sign":
            _refuse_function(token)
        if name == "event" and self._skip("."):
            token = self._take()
            known, names, prefix = self.fields.events, self.event_names, "event."
        else:
            known, names, prefix = self.fields.asked, self.names, ""
        type_ = known.get(token.text) if token.what == "name" else None
        if type_ is None:
            raise ExpressionError(
                "expression.unknown_field",
                token.position,
                found=prefix + token.text,
                fields=[prefix + name for name in known],
            )
        names.add(token.text)
        return _Part(type_.is_a, prefix + token.text, token.position, field=type_)


def _number(token: _Token) -> _Part:
    value = float(token.text)
    if not math.isfinite(value):
        raise ExpressionError("expression.number", token.position, found=token.text)
    # All our numbers are doubles, and CEL converts none by itself.
    return _Part("number", repr(value), token.position)


def _text(token: _Token) -> _Part:
    return _Part("word", token.text, token.position, literal=token.text[1:-1])


def _want(part: _Part, type_: Type) -> None:
    if part.type != type_:
        raise ExpressionError("expression.type", part.position, found=part.type, expected=type_)


def _check_word(asked: _Part, told: _Part) -> None:
    """Refuse to compare a field with a word that it can never be."""
    words = () if asked.field is None else asked.field.words
    if words and told.literal is not None and told.literal not in words:
        raise ExpressionError(
            "expression.unknown_word", told.position, found=told.literal, words=list(words)
        )


def _refuse_function(name: _Token) -> None:
    if name.text in _MACROS:
        raise ExpressionError("expression.macro", name.position, found=name.text)
    if name.text == "matches":
        raise ExpressionError("expression.regex", name.position, found=name.text)
    if name.text not in _METHODS:
        raise ExpressionError(
            "expression.unknown_function",
            name.position,
            found=name.text,
            functions=list(_METHODS),
        )
