"""A second instance of the trafilatura package, with its slow functions exchanged for faster ones that give the same.

The installed package itself is not touched. A function is exchanged only if its source is what the faster one was
written against, and lists of XPaths only if every one of them is understood: in another version of trafilatura the rest
stays as it is there, slower and still right.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pipelines.exact.elements import element_classes
from pipelines.exact.pruning import First, LinkDensity, Sections, Selection, Tags
from pipelines.exact.readability import methods
from pipelines.exact.selectors import UnknownExpression
from pipelines.exact.texts import Repetitions, plain_text, trim

_NAME = "pipelines.exact._trafilatura"
SOURCES: dict[str, tuple[str, ...]] = {
    "utils.trim": ("12667ef0da2de16c",),
    "deduplication.duplicate_test": ("bfcd347877cffbf8", "deduplication.put_in_cache", "deduplication.LRUCache"),
    "xml.xmltotxt": (
        "d2f02fc9b99db327",
        "xml.process_element",
        "xml.replace_element_text",
        "xml.NEWLINE_ELEMS",
        "xml.SPECIAL_FORMATTING",
        "utils.sanitize",
        "utils.line_processing",
        "utils.remove_control_characters",
        "utils.return_printables_and_spaces",
    ),
    "htmlprocessing.convert_tags": ("c8b5d687828ea5a6",),
    "htmlprocessing.delete_by_link_density": ("09cfbd3428e5e6e4", "htmlprocessing.link_density_test"),
    "htmlprocessing.prune_unwanted_nodes": ("96f0b8e1bf9b1140",),
    "main_extractor.prune_unwanted_sections": ("d464c4d02f551ef0",),
    "main_extractor._extract": ("fafba3dc1b79b503",),
    "readability_lxml.Document.remove_unlikely_candidates": ("33705e99e0779a00",),
    "readability_lxml.Document.class_weight": ("e128f8d6110d756a",),
    "readability_lxml.Document.transform_misused_divs_into_paragraphs": (
        "3501b36c53d1aa93",
        "readability_lxml.REGEXES",
    ),
}
"""Replaced functions: what each is known by, and what else is as the replacement has it."""


class Instance:
    """Trafilatura's `extract` as datatrove's `Trafilatura` calls it, on each page as if it were the first."""

    def __init__(self) -> None:
        self._modules = _load()
        self.kept: list[str] = []
        """Names of functions that could not be replaced."""
        self._clear = self._modules["deduplication"].LRU_TEST.clear
        self._replace()
        core = self._modules["core"]
        self._extract = core.extract
        self._options = core.Extractor(precision=True, comments=False, dedup=True)

    def __call__(self, html: str) -> str:
        """The main text of a page, empty if there is none."""
        self._clear()
        return self._extract(html, options=self._options) or ""

    def _replace(self) -> None:
        parts = self._modules
        parts["utils"].HTML_PARSER.set_element_class_lookup(element_classes())
        self._everywhere("utils", "trim", trim)
        repetitions = Repetitions(parts["deduplication"].LRU_TEST.maxsize)
        if self._everywhere("deduplication", "duplicate_test", repetitions):
            self._clear = repetitions.clear
        stock_text = parts["xml"].xmltotxt
        self._everywhere(
            "xml", "xmltotxt", lambda body, formatting: stock_text(body, formatting) if formatting else plain_text(body)
        )
        self._everywhere("htmlprocessing", "convert_tags", Tags(parts["htmlprocessing"]))
        self._everywhere("htmlprocessing", "delete_by_link_density", LinkDensity(parts["htmlprocessing"]))
        document = parts["readability_lxml"].Document
        for name, method in methods(parts["readability_lxml"]).items():
            if self._known(f"readability_lxml.Document.{name}"):
                setattr(document, name, method)
        self._selections()

    def _selections(self) -> None:
        parts = self._modules
        main: Any = parts["main_extractor"]
        try:
            if self._known("main_extractor._extract"):
                main.BODY_XPATH = [First(expression) for expression in main.BODY_XPATH]
            if self._known("main_extractor.prune_unwanted_sections"):
                main.prune_unwanted_sections = Sections(main)
            stock = parts["htmlprocessing"].prune_unwanted_nodes
            selections = {
                id(some): Selection(some)
                for some in (
                    parts["xpaths"].OVERALL_DISCARD_XPATH,
                    parts["xpaths"].PAYWALL_DISCARD_XPATH,
                    parts["xpaths"].REMOVE_COMMENTS_XPATH,
                )
            }

            def prune_unwanted_nodes(tree: Any, nodelist: Any, with_backup: bool = False) -> Any:
                known = None if with_backup else selections.get(id(nodelist))
                return stock(tree, nodelist, with_backup) if known is None else known.prune(tree)

            self._everywhere("htmlprocessing", "prune_unwanted_nodes", prune_unwanted_nodes)
        except UnknownExpression as error:
            self.kept.append(str(error))

    def _everywhere(self, part: str, name: str, function: Callable[..., Any]) -> bool:
        """Exchange a function in all modules that have it under its name."""
        if not self._known(f"{part}.{name}"):
            return False
        stock = getattr(self._modules[part], name)
        for module in self._modules.values():
            if getattr(module, name, None) is stock:
                setattr(module, name, function)
        return True

    def _known(self, name: str) -> bool:
        """Whether the function, and what it calls that was taken into its replacement, is what we know."""
        try:
            known = digest(self._modules, name) == SOURCES[name][0]
        except (AttributeError, KeyError):  # there is no such function any more
            known = False
        if not known:
            self.kept.append(name)
        return known


def digest(modules: dict[str, ModuleType], name: str) -> str:
    """What a function in SOURCES is known by: the beginning of a sha256 of source."""
    whole = hashlib.sha256()
    for path in (name, *SOURCES[name][1:]):
        part, *attributes = path.split(".")
        value: Any = functools.reduce(getattr, attributes, modules[part])
        if callable(value):
            source = inspect.getsource(inspect.unwrap(value))
        elif isinstance(value, dict):
            source = repr([(key, getattr(entry, "pattern", entry)) for key, entry in value.items()])
        else:
            source = repr(sorted(value))
        whole.update(source.encode())
    return whole.hexdigest()[:16]


@functools.cache
def instance() -> Instance:
    """The one of this process."""
    return Instance()


def _load() -> dict[str, ModuleType]:
    """The package's modules, imported a second time under another name."""
    spec = importlib.util.find_spec("trafilatura")
    assert spec is not None and spec.submodule_search_locations is not None
    for name in [name for name in sys.modules if name.startswith(f"{_NAME}.")]:
        del sys.modules[name]
    package = ModuleType(_NAME)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[_NAME] = package
    logging.getLogger(_NAME).setLevel(logging.CRITICAL + 1)  # it has something to say about most pages
    importlib.import_module(f"{_NAME}.core")
    return {
        name.removeprefix(f"{_NAME}."): module for name, module in sys.modules.items() if name.startswith(f"{_NAME}.")
    }
