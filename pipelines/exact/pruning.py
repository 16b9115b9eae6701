"""Faster functions that take boilerplate out of a tree, each equal to the function of trafilatura with its name."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from types import ModuleType
from typing import Any

from lxml.etree import strip_tags

from pipelines.exact.selectors import Scanner, first_only, parse

_MANY_WORDS = 160  # have more than 300 characters, the most that a test of link density asks for


class Selection:
    """One or several XPaths to prune by, evaluated in one walk."""

    def __init__(self, expressions: Sequence[Any]) -> None:
        self.scanner = Scanner([parse(expression.path) for expression in expressions])

    def prune(self, tree: Any) -> Any:
        """Remove what is selected."""
        _remove(self.scanner.walk(tree), range(self.scanner.size))
        return tree


class First:
    """Stands for an XPath of which only the first result is used."""

    def __init__(self, expression: Any) -> None:
        self.path = expression.path
        self._scanner = Scanner([parse(expression.path)])
        assert first_only(expression.path)

    def __call__(self, tree: Any) -> list[Any]:
        """A list of that element, or an empty one."""
        return self._scanner.first(tree)


class Sections:
    """`prune_unwanted_sections` for extraction that favours precision and leaves images out."""

    def __init__(self, module: ModuleType) -> None:
        lists = ["OVERALL", "PAYWALL", "IMAGE", "TEASER", "PRECISION"]
        names = ["DISCARD_IMAGE_ELEMENTS" if name == "IMAGE" else f"{name}_DISCARD_XPATH" for name in lists]
        expressions = [getattr(module, name) for name in names]
        self._overall = len(expressions[0])
        self._scanner = Scanner([parse(expression.path) for some in expressions for expression in some])
        self._stock = module.prune_unwanted_sections
        self._by_links = module.delete_by_link_density

    def __call__(self, tree: Any, potential_tags: set[str], options: Any) -> Any:
        """`tree` without navigation, advertisement, teasers and lists of links; a copy if that would be all of it."""
        if options.focus != "precision" or "graphic" in potential_tags:
            return self._stock(tree, potential_tags, options)
        tree = self._by_attributes(tree)
        for tag, backtracking in (("div", True), ("list", False), ("p", False)):
            tree = self._by_links(tree, tag, backtracking=backtracking, favor_precision=True)
        while len(tree) > 0 and tree[-1].tag == "head":
            tree.remove(tree[-1])
        for tag in ("head", "quote"):
            tree = self._by_links(tree, tag, backtracking=False)
        return tree

    def _by_attributes(self, tree: Any) -> Any:
        found = self._scanner.walk(tree)
        before = len(tree.text_content())
        backup = deepcopy(tree) if not before or any(number < self._overall for _, number in found) else None
        if backup is not None:
            _remove(found, range(self._overall))
            if len(tree.text_content()) <= before / 7:
                tree = backup
                found = self._scanner.walk(tree, ignore=self._overall)
        _remove(found, range(self._overall, self._scanner.size))
        return tree


def _remove(found: list[tuple[Any, int]], numbers: range) -> None:
    """Take elements out of their tree, those of the first selection first; their tails stay, at the element before."""
    for number in numbers:
        for element, own in found:
            if own == number:
                tail, parent = element.tail, element.getparent()
                if tail is not None:
                    before = element.getprevious()
                    before = parent if before is None else before
                    before.tail = (before.tail or "") + " " + tail
                parent.remove(element)


class LinkDensity:
    """`delete_by_link_density`: looks only at elements that have links, and only if their text is short."""

    def __init__(self, module: ModuleType) -> None:
        self._test, self._delete = module.link_density_test, module.delete_element

    def __call__(self, subtree: Any, tagname: str, backtracking: bool = False, favor_precision: bool = False) -> Any:
        """`subtree` without the elements of a tag that are mostly links."""
        with_links: set[Any] = set()
        for link in subtree.iter("ref"):
            for parent in link.iterancestors():
                if parent in with_links:
                    break
                with_links.add(parent)
                if parent is subtree:
                    break
        if not with_links:
            return subtree
        limit = 200 if favor_precision else 100
        doomed: list[Any] = []
        for element in subtree.iter(tagname):
            if element not in with_links:
                continue
            words = element.text_content().split(None, _MANY_WORDS)
            if len(words) > _MANY_WORDS:
                continue
            text = " ".join(words)
            is_links, texts = self._test(element, text, favor_precision)
            if is_links:
                doomed.append(element)
            elif backtracking and texts and 0 < len(text) < limit and len(element) >= 3:
                doomed.extend(element)
        for element in dict.fromkeys(doomed):
            self._delete(element)
        return subtree


class Tags:
    """`convert_tags` for output without links, formatting and images."""

    def __init__(self, module: ModuleType) -> None:
        self._stock = module.convert_tags
        self._conversions, self._formatting = module.CONVERSIONS, tuple(module.REND_TAG_MAPPING)

    def __call__(self, tree: Any, options: Any, url: str | None = None) -> Any:
        """The tree in trafilatura's own vocabulary."""
        if options.links or options.formatting or options.images:
            return self._stock(tree, options, url)
        holders = ("div", "ul", "table") if options.tables else ("div", "ul")
        held: dict[Any, bool] = {tree: False}
        for link in tree.iterdescendants("a"):
            path = []
            parent = link.getparent()
            while (known := held.get(parent)) is None and parent.tag not in holders:
                path.append(parent)
                parent = parent.getparent()
            if known is None:
                known = held[parent] = True
            for element in path:
                held[element] = known
            if known:
                link.tag = "ref"
        strip_tags(tree, "a")
        strip_tags(tree, *self._formatting)
        for element in tree.iter(*self._conversions):
            self._conversions[element.tag](element)
        return tree
