"""Faster methods for trafilatura's readability, each equal to the method of its `Document` with its name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lxml.etree import XPath

_with_names = XPath("descendant::*[@class or @id]")


def methods(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The methods by name."""
    expressions: dict[str, re.Pattern[str]] = module.REGEXES
    unlikely, maybe = expressions["unlikelyCandidatesRe"].search, expressions["okMaybeItsACandidateRe"].search
    positive, negative = expressions["positiveRe"].search, expressions["negativeRe"].search
    block = re.compile(expressions["divToPElementsRe"].pattern.removeprefix("<"), re.I).match

    @functools.lru_cache(maxsize=2**14)
    def is_unlikely(names: str) -> bool:
        return len(names) >= 2 and unlikely(names) is not None and maybe(names) is None

    @functools.lru_cache(maxsize=2**14)
    def weight(name: str) -> int:
        return 25 * (positive(name) is not None) - 25 * (negative(name) is not None)

    @functools.lru_cache(maxsize=2**10)
    def is_block(tag: str) -> bool:
        return block(tag) is not None

    def remove_unlikely_candidates(self: Any) -> None:
        for element in _with_names(self.doc):
            names = " ".join(filter(None, (element.get("class"), element.get("id"))))
            if is_unlikely(names) and element.tag not in module.FRAME_TAGS:
                element.drop_tree()

    def class_weight(self: Any, elem: Any) -> int:
        return sum(weight(name) for name in (elem.get("class"), elem.get("id")) if name)

    def transform_misused_divs_into_paragraphs(self: Any) -> None:
        with_blocks: set[Any] = set()
        for element in self.doc.iterdescendants("*"):
            if is_block(element.tag):
                for parent in element.iterancestors():
                    if parent in with_blocks:
                        break
                    with_blocks.add(parent)
        for element in list(self.doc.iterdescendants("div")):
            if element not in with_blocks:
                element.tag = "p"
        for element in list(self.doc.iterdescendants("div")):
            if element.text and not element.text.isspace():
                paragraph = element.makeelement("p")
                paragraph.text, element.text = element.text, None
                element.insert(0, paragraph)
            children = list(element)
            for position in range(len(children) - 1, -1, -1):
                child = children[position]
                tail = child.tail
                if tail and not tail.isspace():
                    paragraph = element.makeelement("p")
                    paragraph.text, child.tail = tail, None
                    element.insert(position + 1, paragraph)
                if child.tag == "br":
                    child.drop_tree()

    return {
        function.__name__: function
        for function in (remove_unlikely_candidates, class_weight, transform_misused_divs_into_paragraphs)
    }
