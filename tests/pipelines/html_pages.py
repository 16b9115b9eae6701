"""Pages for tests of extraction: made up, with what trafilatura has rules about, and real ones where there are any."""

from __future__ import annotations

from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType
from hypothesis import strategies as st

from pipelines.charset import decode

WARC = Path(__file__).resolve().parents[2].parent / "shared/data/warc/commoncrawl_whirlwind/whirlwind.warc.gz"
_SENTENCE = "The miller's daughter, who had seen the river rise, counted the sacks again and found one missing."
_NAMES = """
article post-content entry content main main-content story-body text footer Footer relatedLinks share shareBar
social sidebar navbar post-nav breadcrumb author byline widget meta menu bar hidden hide-print noprint comments
comment-list commentlist disqus_thread teaser Teaser bottom links caption paywall premium overlay highlight
hljs-tag w3-code yin x xg1 foot header pager popup twitter column shadow body combx page masthead form
"""
_BLOCKS = """
div div div p p section article main aside ul ol dl table blockquote pre form figure header footer nav details
h1 h2 h3 td tr li dd dt q code list item head
"""
_INLINE = """
a a span b i em strong code img br hr del sub kbd font abbr summary ref lb iframe script style
"""

_attributes = st.dictionaries(
    st.sampled_from(["class", "id", "role", "style", "href", "aria-hidden", "data-component", "colspan", "lang"]),
    st.one_of(
        st.lists(st.sampled_from(_NAMES.split()), min_size=1, max_size=2).map(" ".join),
        st.sampled_from(
            ["2", "true", "navigation", "display:none", "border: 1px", "http://x.example/a.png", "", "é<\"'"]
        ),
    ),
    max_size=2,
)
_texts = st.one_of(
    st.sampled_from(["", " ", "\n", "short", "Facebook", "PDF", "a, b, c.", _SENTENCE, _SENTENCE * 3, "x" * 120]),
    st.sampled_from(
        ["&#13;x&amp;nbsp;y", "&nbsp;", "\u2424", "\x85\u2028z", "{json}", "漢字かな、混じり。", "a\u200bb\u0301"]
    ),
)


def _element(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda tag, attributes, parts, tail: (
            f"<{tag}"
            + "".join(f' {name}="{value.replace(chr(34), "&quot;")}"' for name, value in attributes.items())
            + f">{''.join(parts)}</{tag}>{tail}"
        ),
        st.sampled_from((_BLOCKS + _INLINE).split()),
        _attributes,
        st.lists(children, max_size=5),
        _texts,
    )


bodies = st.lists(st.recursive(_texts, _element, max_leaves=40), min_size=1, max_size=8).map("".join)
pages = st.builds(
    lambda body, times, long: (
        f"<html><head><title>T</title></head><body>{body * times}{f'<p>{_SENTENCE * 3}</p>' * long}</body></html>"
    ),
    bodies,
    st.sampled_from([1, 1, 1, 2, 5]),
    st.integers(0, 2),
)


def real_pages() -> list[str]:
    """Those of the shared archives; none if these are absent."""
    if not WARC.exists():
        return []
    with WARC.open("rb") as stream:
        records = ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True)
        return [decode(record.reader.read()) for record in records]
