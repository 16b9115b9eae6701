"""Element selections by attribute that trafilatura writes as XPath, compiled to look-ups.

`//*[self::div or self::p][contains(@class, "share") or ...]` asks dozens of questions of every element; here the answer
for a value of an attribute is found once and remembered. What the compiler does not know word for word it refuses.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_MEMORY = 100_000  # answers remembered for an attribute
_TERM = re.compile(
    r"""(?:(?P<function>contains|starts-with)\(\s*
          (?:translate\(\s*@(?P<folded>[\w-]+)\s*,\s*["'](?P<upper>\w+)["']\s*,\s*["'](?P<lower>\w+)["']\s*\)|@(?P<plain>[\w-]+))
          \s*,\s*(?P<quote>["'])(?P<part>.*?)(?P=quote)\s*\)
        |@(?P<equal>[\w-]+)\s*=\s*(?P<quote2>["'])(?P<whole>.*?)(?P=quote2)
        |@(?P<present>[\w-]+))""",
    re.X,
)
_SELF = re.compile(r"self::(\w+)")


class UnknownExpression(ValueError):
    """An XPath that is not of the form this module understands."""


@dataclass(frozen=True)
class Rule:
    """Elements with one of `tags` (any, if there are none) of which an attribute matches its pattern (any, if none)."""

    tags: frozenset[str]
    patterns: dict[str, re.Pattern[str]] = field(hash=False)


def parse(path: str) -> list[Rule]:
    """The rules an XPath stands for: an element is selected if one of them fits. Document order, descendants only.

    Raises:
        UnknownExpression: there is more to the expression.
    """
    return [_parse_one(part) for part in _split(path, "|")]


def first_only(path: str) -> bool:
    """Whether every alternative of an expression ends in `[1]`, so that only the first element matters to its user."""
    return all(part.endswith("[1]") for part in _split(path, "|"))


def _parse_one(path: str) -> Rule:
    path = path.removesuffix("[1]")
    if path.startswith("(") and path.endswith(")"):
        path = path[1:-1].strip()
    if re.fullmatch(r"\.//\w+", path):
        return Rule(frozenset([path[3:]]), {})
    match = re.fullmatch(r"\.//\*\s*((?:\[.*?\])+)", path, re.S)
    if match is None:
        raise UnknownExpression(path)
    conditions = [part.strip() for part in match[1][1:-1].split("][")]
    tags: frozenset[str] = frozenset()
    if conditions[0].startswith("("):
        first = conditions.pop(0)
        terms = re.split(r"\s+or\s+", first[1:-1].strip())
        if not first.endswith(")") or not all(_SELF.fullmatch(term) for term in terms):
            raise UnknownExpression(path)
        tags = frozenset(_SELF.findall(first))
    if len(conditions) != 1:
        raise UnknownExpression(path)
    return Rule(tags, _patterns(conditions[0]))


def _patterns(condition: str) -> dict[str, re.Pattern[str]]:
    """Attribute to pattern, from terms joined by `or`."""
    found: dict[str, list[str]] = {}
    position = 0
    while True:
        match = _TERM.match(condition, position)
        if match is None:
            raise UnknownExpression(condition[position:])
        if match["function"]:
            part = (
                _folded(match["part"], match["upper"], match["lower"]) if match["folded"] else re.escape(match["part"])
            )
            anchor = r"\A" if match["function"] == "starts-with" else ""
            found.setdefault(match["folded"] or match["plain"], []).append(anchor + part)
        elif match["equal"]:
            found.setdefault(match["equal"], []).append(rf"\A{re.escape(match['whole'])}\Z")
        else:
            found.setdefault(match["present"], []).append("")
        joint = re.compile(r"\s*(?:or\s+|\Z)").match(condition, match.end())
        if joint is None:
            raise UnknownExpression(condition[match.end() :])
        position = joint.end()
        if position == len(condition):
            return {name: re.compile("|".join(parts)) for name, parts in found.items()}


def _folded(part: str, upper: str, lower: str) -> str:
    """A pattern for what becomes `part` when each of `upper` is replaced by its counterpart in `lower`."""
    if len(upper) != len(lower) or set(upper) & set(lower):
        raise UnknownExpression(f"translate {upper} to {lower}")
    if set(part) & set(upper):
        return r"(?!)"  # nothing is left of those letters
    return "".join(f"[{c}{upper[lower.index(c)]}]" if c in lower else re.escape(c) for c in part)


def _split(path: str, by: str) -> list[str]:
    """The parts of a union, which is one of expressions without that character in their brackets."""
    return [part.strip() for part in path.split(by)]


class Scanner:
    """Finds the elements for many selections in one walk over a tree. A selection is a list of rules."""

    def __init__(self, selections: Iterable[list[Rule]]) -> None:
        self._by_tag: dict[str, int] = {}
        self._any_tag = self._unconditional = 0
        patterns: dict[str, list[tuple[int, re.Pattern[str]]]] = {}
        self.size = 0
        rules = []
        for number, selection in enumerate(selections):
            rules += [(1 << number, rule) for rule in selection]
            self.size = number + 1
        # a bit a rule, so that the tags of one do not meet the attributes of another
        self._selection = [bit for bit, _ in rules]
        for number, (_, rule) in enumerate(rules):
            bit = 1 << number
            if not rule.tags:
                self._any_tag |= bit
            if not rule.patterns:
                self._unconditional |= bit
            for name, pattern in rule.patterns.items():
                patterns.setdefault(name, []).append((bit, pattern))
        for tag in {tag for _, rule in rules for tag in rule.tags}:
            bits = sum(1 << number for number, (_, rule) in enumerate(rules) if tag in rule.tags)
            self._by_tag[tag] = self._any_tag | bits
        self._answers = {name: _Answers(found) for name, found in patterns.items()}
        self._tags = None if self._any_tag else tuple(self._by_tag)

    def walk(self, tree: Any, ignore: int = 0) -> list[tuple[Any, int]]:
        """Descendants of `tree` in document order that are of a selection, each with the number of its first one.

        The first `ignore` selections do not count.
        """
        found = []
        for element, hit in self._hits(tree):
            hit >>= ignore
            if hit:
                found.append((element, (hit & -hit).bit_length() - 1 + ignore))
        return found

    def first(self, tree: Any) -> list[Any]:
        """The first descendant of `tree` that is of any selection, if there is one."""
        return [element for element, _ in itertools.islice(self._hits(tree), 1)]

    def _hits(self, tree: Any) -> Iterator[tuple[Any, int]]:
        answers, by_tag, any_tag, unconditional = self._answers, self._by_tag, self._any_tag, self._unconditional
        for element in tree.iter(*self._tags) if self._tags else tree.iter("*"):
            bits = unconditional
            for name, value in element.items():
                if name in answers:
                    bits |= answers[name][value]
            if bits:
                bits &= by_tag.get(element.tag, any_tag)
                if bits and element is not tree:
                    hit = 0
                    for number, selection in enumerate(self._selection):
                        if bits >> number & 1:
                            hit |= selection
                    yield element, hit


class _Answers(dict[str, int]):
    """Which rules fit a value of one attribute, as bits."""

    def __init__(self, patterns: list[tuple[int, re.Pattern[str]]]) -> None:
        super().__init__()
        self._searches: list[tuple[int, Callable[[str], Any]]] = [(bit, pattern.search) for bit, pattern in patterns]

    def __missing__(self, value: str) -> int:
        if len(self) >= _MEMORY:
            self.clear()
        bits = 0
        for bit, search in self._searches:
            if search(value):
                bits |= bit
        self[value] = bits
        return bits
