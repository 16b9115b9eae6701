"""Patterns of many alternatives, narrowed to those that can match with the characters that a text has.

A tokenizer's patterns have about a hundred alternatives, all of which Python tries at every place of a text. Which of
them can match at an end of a text its last character there tells, mostly that none can. What is found stays the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

Search = Callable[[str], "re.Match[str] | None"]

_SCANNED = 1000  # characters: wider alternatives are taken for unbounded
_BACK_REFERENCE = re.compile(r"\\[1-9]|\(\?P=|\(\?\(")


class Edge(dict[str, Search | None]):
    """What finds the match of a pattern in a text, by its first (or last) character; None where there is none.

    The pattern is one whose `search` it is given; alternatives that are not tied to that end are always tried.
    """

    def __init__(self, search: Callable[..., Any], *, last: bool) -> None:
        super().__init__()
        self._search, self._last, self._parts = search, last, _alternatives(search)
        self._narrowed: dict[tuple[int, ...], Search | None] = {(): None}

    def __missing__(self, character: str) -> Search | None:
        if self._parts is None:
            return self._search
        tied = op.AT, (op.AT_END if self._last else op.AT_BEGINNING)
        chosen = tuple(
            number
            for number, (_, tree) in enumerate(self._parts)
            if not tree or tree[-1 if self._last else 0] != tied or _may_be_at_end(tree, character, self._last)
        )
        if chosen not in self._narrowed:
            self._narrowed[chosen] = self._compile([self._parts[number] for number in chosen], tied)
        self[character] = self._narrowed[chosen]
        return self[character]

    def _compile(self, parts: Sequence[tuple[str, Any]], tied: Any) -> Search:
        pattern = re.compile("|".join(text for text, _ in parts))
        if any(not tree or tree[-1 if self._last else 0] != tied for _, tree in parts):
            return pattern.search
        return _Tail(pattern, [tree for _, tree in parts]) if self._last else pattern.match


class _Tail:
    """Searches a text for the leftmost match of `pattern`, which ends where the text does, where it can begin."""

    def __init__(self, pattern: re.Pattern[str], trees: Sequence[Any]) -> None:
        self._search = pattern.search
        widths = [tree.getwidth()[1] for tree in trees]
        self._width = max((width for width in widths if width <= _SCANNED), default=0) + 1  # `$` passes over a line end
        self._unbounded = _Holds([tree for tree, width in zip(trees, widths, strict=True) if width > _SCANNED])

    def __call__(self, text: str) -> re.Match[str] | None:
        return self._search(text, self._start(text))

    def _start(self, text: str) -> int:
        start = len(text)
        while start and self._unbounded[text[start - 1]]:
            start -= 1
        return max(0, min(start, len(text) - self._width))


class _Holds(dict[str, bool]):
    """Whether a character can be anywhere in a match of one of `trees`."""

    def __init__(self, trees: Sequence[Any]) -> None:
        super().__init__()
        self._trees = trees

    def __missing__(self, character: str) -> bool:
        self[character] = any(_may_hold(tree, character) for tree in self._trees)
        return self[character]


class Needed(dict[str, bool]):
    """Whether a pattern may match in a text that has a character; without any such character there is no match.

    The pattern is one whose `finditer` it is given.
    """

    def __init__(self, finditer: Callable[..., Any]) -> None:
        super().__init__()
        self._parts = _alternatives(finditer)

    def __missing__(self, character: str) -> bool:
        self[character] = self._parts is None or any(_may_begin(tree, character) for _, tree in self._parts)
        return self[character]


def _alternatives(method: Callable[..., Any]) -> list[tuple[str, Any]] | None:
    """The alternatives of the pattern that `method` is one of, and how they are parsed; None where they depend."""
    pattern = getattr(method, "__self__", None)
    if not isinstance(pattern, re.Pattern) or pattern.flags != re.UNICODE or _BACK_REFERENCE.search(pattern.pattern):
        return None
    texts, start, depth, inside, escaped = [], 0, 0, False, False
    for place, character in enumerate(pattern.pattern):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif inside:
            inside = character != "]"
        elif character == "|" and depth == 0:
            texts.append(pattern.pattern[start:place])
            start = place + 1
        else:
            inside = character == "["
            depth += (character == "(") - (character == ")")
    texts.append(pattern.pattern[start:])
    try:
        return [(text, _parser.parse(text)) for text in texts]
    except re.error:  # such as a bracket that is the first character of a class
        return None


def _may_be_at_end(tree: Any, character: str, last: bool) -> bool:
    """Whether a match of `tree` can have `character` as its last one (or first), or be empty."""
    for item in reversed(tree) if last else tree:
        kind, value = item
        if kind in (op.AT, op.ASSERT, op.ASSERT_NOT):
            continue
        if _may_be(kind, value, character, lambda part: _may_be_at_end(part, character, last)):
            return True
        if _least_width(kind, value) > 0:
            return False
    return True


def _may_begin(tree: Any, character: str) -> bool:
    """Whether `character` can be the first one of a match of `tree`; if that may be empty, the one before it."""
    if tree.getwidth()[0] > 0:
        return _may_be_at_end(tree, character, False)
    if not tree or tree[0][0] is not op.ASSERT:
        return True
    ahead, part = tree[0][1]
    return ahead > 0 or _may_be_at_end(part, character, True)


def _may_hold(tree: Any, character: str) -> bool:
    """Whether `character` can be anywhere in a match of `tree`."""
    return any(
        _may_be(kind, value, character, lambda part: _may_hold(part, character))
        for kind, value in tree
        if kind not in (op.AT, op.ASSERT, op.ASSERT_NOT)
    )


def _may_be(kind: Any, value: Any, character: str, of: Callable[[Any], bool]) -> bool:
    """Whether an item can match a text with `character` in it; of items with parts, whether one of them does, by `of`.

    True for all that is not known here.
    """
    if kind is op.LITERAL:
        return bool(character) and value == ord(character)
    if kind is op.IN:
        return bool(character) and _may_be_in(value, ord(character))
    if kind is op.SUBPATTERN:
        return bool(value[1] or value[2]) or of(value[3])
    if kind is op.BRANCH:
        return any(map(of, value[1]))
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        return of(value[2])
    return True


def _may_be_in(items: Sequence[Any], code: int) -> bool:
    """Whether a class of characters has the one with this code; True where that takes more than comparisons."""
    negated = items[0][0] is op.NEGATE
    for kind, value in items[negated:]:
        if kind is op.LITERAL:
            found = value == code
        elif kind is op.RANGE:
            found = value[0] <= code <= value[1]
        else:
            return True
        if found:
            return not negated
    return negated


def _least_width(kind: Any, value: Any) -> int:
    """The fewest characters that an item matches."""
    least: int
    if kind is op.SUBPATTERN:
        least = value[3].getwidth()[0]
    elif kind is op.BRANCH:
        least = min(branch.getwidth()[0] for branch in value[1])
    elif kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        least = value[0] * value[2].getwidth()[0]
    else:
        least = kind in (op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY)
    return least
