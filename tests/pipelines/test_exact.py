"""`exact` against the installed trafilatura: every text, and every function that is replaced, is the same."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import pytest
import trafilatura
from datatrove.pipeline.extractors import Trafilatura
from html_pages import pages, real_pages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml.etree import XPath, tostring
from text_bench import prose
from trafilatura import htmlprocessing, main_extractor, readability_lxml, utils, xml, xpaths
from trafilatura.deduplication import LRU_TEST, duplicate_test
from trafilatura.settings import Extractor

from pipelines.exact import instance as module
from pipelines.exact.instance import Instance, instance
from pipelines.exact.selectors import Scanner, UnknownExpression, parse
from pipelines.exact.texts import trim

OPTIONS = Extractor(precision=True, comments=False, dedup=True)
EXPRESSIONS = [
    *xpaths.BODY_XPATH,
    *xpaths.OVERALL_DISCARD_XPATH,
    *xpaths.PAYWALL_DISCARD_XPATH,
    *xpaths.DISCARD_IMAGE_ELEMENTS,
    *xpaths.TEASER_DISCARD_XPATH,
    *xpaths.PRECISION_DISCARD_XPATH,
    *xpaths.REMOVE_COMMENTS_XPATH,
]
often = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Any:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def stock(html: str) -> str:
    """What datatrove's extractor gives if its process has seen no page before."""
    LRU_TEST.clear()
    return Trafilatura().extract(html) or ""


def ours(name: str) -> ModuleType:
    return instance()._modules[name]


def both(html: str) -> tuple[Any, Any]:
    """The page as a tree of the installed package, and as one of ours."""
    return utils.load_html(html), ours("utils").load_html(html)


def written(tree: Any) -> str:
    return tostring(tree.getroottree().getroot(), encoding="unicode")


def test_every_replacement_is_in_place() -> None:
    assert instance().kept == []


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(pages)
def test_texts_of_made_up_pages(html: str) -> None:
    assert instance()(html) == stock(html)


def test_texts_of_real_pages() -> None:
    for html in real_pages():
        assert instance()(html) == stock(html)


@pytest.mark.parametrize(
    "html", ["", "x", "\0", "<html>", "<!-- -->", "<p>" * 3000 + "deep", "<?xml version='1.0' encoding='x'?><p>a"]
)
def test_texts_of_what_is_hardly_a_page(html: str) -> None:
    assert instance()(html) == stock(html)


def test_repeated_paragraphs_are_dropped_as_on_a_first_page() -> None:
    again = f"<p>{'This very sentence is here a number of times, and it is more than long enough. ' * 2}</p>"
    paragraphs = [f"<p>{paragraph}</p>{again}" for seed in (1, 2) for paragraph in prose("en", seed)]
    html = f"<html><body><article>{''.join(paragraphs)}</article></body></html>"
    text = instance()(html)
    assert text == stock(html)
    assert text.count("This very") == 6
    assert instance()(html) == text
    assert Trafilatura().extract(html) != text  # of stock the same page again has another text


@often
@given(pages)
def test_selections(html: str) -> None:
    tree = utils.load_html(html)
    for expression in EXPRESSIONS:
        found = expression(tree)
        scanned = [element for element, _ in Scanner([parse(expression.path)]).walk(tree)]
        if expression.path.endswith("[1]"):
            found, scanned = found[:1], scanned[:1]
        assert scanned == found
    everything = Scanner([parse(expression.path.replace("[1]", "")) for expression in EXPRESSIONS]).walk(tree)
    assert len({element for element, _ in everything}) == len(everything)


@pytest.mark.parametrize(
    "path", ["//p", ".//*[@class='x' and @id]", ".//*[position() = 1]", ".//*[(self::p)][text()]", ".//*[not(@id)]"]
)
def test_expressions_of_another_form_are_refused(path: str) -> None:
    XPath(path)
    with pytest.raises(UnknownExpression):
        parse(path)


@often
@given(pages, st.sampled_from(["prune", "by_links", "tags", "paywall"]))
def test_functions_on_trees(html: str, what: str) -> None:
    results = []
    for parts, tree in zip((main_extractor, ours("main_extractor")), both(html), strict=True):
        processing = htmlprocessing if parts is main_extractor else ours("htmlprocessing")
        paths = xpaths if parts is main_extractor else ours("xpaths")
        if tree is None:
            results.append("")
            continue
        if what == "paywall":
            result = processing.prune_unwanted_nodes(tree, paths.PAYWALL_DISCARD_XPATH)
        else:
            result = processing.convert_tags(tree, OPTIONS)
        if what == "prune":
            result = parts.prune_unwanted_sections(result, {"p"}, OPTIONS)
        elif what == "by_links":
            for tag, backtracking, precision in (("div", True, True), ("list", False, True), ("p", False, False)):
                result = processing.delete_by_link_density(result, tag, backtracking, precision)
        results.append(written(result) + written(tree))
    assert results[0] == results[1]


@often
@given(pages)
def test_methods_of_readability(html: str) -> None:
    results = []
    for document, tree in zip((readability_lxml.Document, ours("readability_lxml").Document), both(html), strict=True):
        if tree is None:
            return
        reader = document(tree)
        weights = [reader.class_weight(element) for element in tree.iter("*")]
        reader.remove_unlikely_candidates()
        reader.transform_misused_divs_into_paragraphs()
        results.append((weights, written(tree)))
    assert results[0] == results[1]


@often
@given(pages)
def test_functions_on_texts(html: str) -> None:
    for tree in both(html):
        if tree is not None:
            tree = htmlprocessing.convert_tags(tree, OPTIONS)
            for cell in tree.iter("td"):
                cell.tag = "cell"
            for row in tree.iter("tr"):
                row.tag = "row"
            assert ours("xml").xmltotxt(tree, False) == xml.xmltotxt(tree, False)
            assert ours("xml").xmltotxt(tree, True) == xml.xmltotxt(tree, True)
            LRU_TEST.clear()
            test = ours("htmlprocessing").duplicate_test
            test.clear()
            elements = list(tree.iter("*")) * 3
            assert [test(element, OPTIONS) for element in elements] == [duplicate_test(e, OPTIONS) for e in elements]


@often
@given(st.one_of(st.text(), st.none()))
def test_trim(text: Any) -> None:
    assert trim(text) == utils.trim(text)


def test_memory_of_texts_is_as_small_as_stock() -> None:
    test = ours("htmlprocessing").duplicate_test
    test.clear()
    LRU_TEST.clear()
    texts = [f"{number % 5000:<120}." + "x" * 100 for number in range(12_000)]
    texts += ["y" * 101] * 5 + texts[-20:] * 3
    elements = [utils.load_html(f"<html><p>{text}</p></html>") for text in texts[:1]]
    element = next(elements[0].iter("p"))
    for text in texts:
        element.text = text
        assert test(element, OPTIONS) == duplicate_test(element, OPTIONS)


def test_a_function_of_another_version_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("utils.trim", "xml.xmltotxt", "main_extractor.prune_unwanted_sections"):
        monkeypatch.setitem(module.SOURCES, name, ("another", *module.SOURCES[name][1:]))
    gone = "htmlprocessing.delete_by_link_density"
    monkeypatch.setitem(module.SOURCES, gone, (module.SOURCES[gone][0], "htmlprocessing.no_such_function"))
    other = Instance()
    assert other.kept == ["utils.trim", "xml.xmltotxt", gone, "main_extractor.prune_unwanted_sections"]
    for html in (*real_pages(), "<html><body><p>" + "Some text. " * 50 + "</p></body></html>"):
        assert other(html) == stock(html)


def test_the_installed_package_is_not_touched() -> None:
    instance()
    assert utils.trim is not trim
    assert main_extractor.prune_unwanted_sections.__module__ == "trafilatura.main_extractor"
    assert all(isinstance(expression, XPath) for expression in xpaths.BODY_XPATH)
    assert trafilatura.extract.__module__ == "trafilatura.core"
