"""`fast`: blocks are read as they are written, none is lost, and boilerplate goes."""

from __future__ import annotations

import html
import json
import math
import re

import numpy as np
import pytest
from html_pages import pages, real_pages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree
from text_bench import prose

from pipelines.extractors import fast
from pipelines.fast.blocks import WEIGHTS, Blocks, Network, kinds, main_blocks, network
from pipelines.fast.kernels import AROUND, FEATURES, OWN, PLAIN, features, read_blocks, scores

often = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def minimal(page: str) -> str:
    return extract_plain_text(
        page, main_content=True, list_bullets=False, alt_texts=False, links=True, preserve_formatting="minimal_html"
    )


@often
@given(pages)
def test_all_blocks_together_are_resiliparse_s_main_content(page: str) -> None:
    blocks = main_blocks(HTMLTree.parse(page))
    everything = blocks.joined(np.ones(len(blocks.starts), bool))
    wanted = html.unescape(re.sub(r"<[^>]*>", "\n", re.sub(r'"[^"]*"', '""', minimal(page)).replace('""', "")))
    assert re.sub(r"\s", "", everything).replace('"', "") == re.sub(r"\s", "", wanted).replace('"', "")
    assert not re.search(r"\n{3}", re.sub(r"<pre>.*?</pre>", "", everything, flags=re.DOTALL)) or "<pre" in minimal(
        page
    )
    assert blocks.joined(np.zeros(len(blocks.starts), bool)) == ""


@often
@given(st.text(st.sampled_from('<>/"phrelib1 \n&;.,Ω漢\U0001f600'), max_size=80))
def test_whatever_is_read_stays_within_bounds(text: str) -> None:
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    with_checks = read_blocks.py_func(codes, kinds())
    for ours, wanted in zip(read_blocks(codes, kinds()), with_checks, strict=True):
        assert np.array_equal(ours, wanted) or np.allclose(ours, wanted)
    _, starts, ends, gaps, own = with_checks
    assert (starts < ends).all() and (starts[1:] >= ends[:-1]).all() and len(gaps) == len(own) == len(starts)
    if "<" not in text:
        assert len(starts) == sum(not line.isspace() and line != "" for line in text.split("\n"))


def test_features_of_a_block() -> None:
    line = '<h2>On Mills</h2>\n\n<p>The <a href="/x>y">mill, <br>2 stones</a> &amp; a wheel. Good! </p>\n'
    text, starts, ends, gaps, own = read_blocks(np.frombuffer(line.encode("utf-32-le"), np.uint32), kinds())
    whole = text.tobytes().decode("utf-32-le")
    assert [whole[a:b] for a, b in zip(starts, ends, strict=True)] == [
        "On Mills",
        "The mill,\n2 stones &amp; a wheel. Good!",
    ]
    assert gaps.tolist() == [0, 2]
    chars = len("Themill,2stones&amp;awheel.Good!")
    linked = len("mill,2stones")
    row = own[1]
    assert row[[0, 2, 6, 7, 17]] == pytest.approx([math.log1p(x) for x in (chars, 1, 2, 2, chars - linked)])
    assert row[1] == pytest.approx(linked / chars)
    assert row[4] == pytest.approx(1 / chars)
    assert row[[8, 9, 10, 11, 12, 13, 16]].tolist() == [1, 0, 0, 1, 0, 0, 1]
    assert own[0, [9, 10, 11]].tolist() == [0, 1, 0]


def test_blocks_lend_their_features_to_their_neighbours() -> None:
    own = np.random.default_rng(1).random((9, OWN)).astype(np.float32)
    table = features(own)
    assert table.shape == (9, FEATURES)
    for i in range(9):
        for shift in range(-AROUND, AROUND + 1):
            lent = table[i, OWN * (shift + AROUND) : OWN * (shift + AROUND + 1)]
            assert (lent == (own[i + shift] if 0 <= i + shift < 9 else 0)).all()
    assert features(own[:0]).shape == (0, FEATURES)


def test_scores_are_those_of_the_network() -> None:
    rng = np.random.default_rng(2)
    net = network()
    table = rng.standard_normal((50, FEATURES)).astype(np.float32) * (rng.random((50, FEATURES)) < 0.5)
    wanted = np.maximum(table @ net.first + net.first_bias, 0) @ net.second + net.second_bias
    assert scores(table.astype(np.float32), *net) == pytest.approx(wanted, abs=1e-3)
    assert set(json.loads(WEIGHTS.read_text())) == set(Network._fields)


def test_boilerplate_goes_and_text_stays() -> None:
    paragraphs = prose("en", 5, 15)
    links = "".join(f'<li><a href="/{n}">Topic {n}</a></li>' for n in range(30))
    page = (
        f"<html><title>Tales</title><body><div><ul>{links}</ul></div><h1>Old tales</h1>"
        + "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
        + f"<div><p><a href='/a'>Previous</a> | <a href='/b'>Next</a></p><ul>{links}</ul></div></body></html>"
    )
    text, title = fast()(page)
    assert title == "Tales"
    assert "Topic" not in text
    assert all(paragraph in text for paragraph in paragraphs)


def test_a_page_of_little_text_keeps_more_of_it() -> None:
    sizes = np.array([300, 90, 200, 50, 10])
    own = np.zeros((5, OWN), np.float32)
    own[:, PLAIN] = np.log1p(sizes)
    blocks = Blocks(np.zeros(0, np.uint32), *np.zeros((3, 5), np.int64), own)
    net = network()
    for wanted, logits in (
        ([1, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
        ([1, 0, 1, 0, 0], [2, -1, 0, -1.5, -3]),  # 500 characters are enough
        ([0, 1, 0, 1, 0], [-2.5, 1, -2.1, -2, -9]),  # and some blocks are never taken
    ):
        given = np.array(logits, np.float32)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipelines.fast.blocks.scores", lambda *_, given=given: given)
            assert net.keep(blocks).tolist() == [bool(value) for value in wanted]


def test_real_pages_have_no_tags_left() -> None:
    extract = fast()
    for page in real_pages():
        assert "<p>" not in extract(page)[0]
