"""Personal data and secrets: what is found, what is left alone, what hostile text costs, what becomes of finds."""

from __future__ import annotations

import itertools
import random
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document
from datatrove.pipeline.formatters import PIIFormatter
from hypothesis import example, given, settings
from hypothesis import strategies as st
from text_bench import prose

from illada.config import Privacy
from pipelines.privacy.emails import emails
from pipelines.privacy.page import Page
from pipelines.privacy.redact import FINDERS, REPLACEMENTS, add_found, redact
from pipelines.privacy.step import PrivacyFilter
from pipelines.recorder import Recorder, Sink

EMAIL = PIIFormatter().emails_replacer.regex


def stock_emails(text: str) -> list[tuple[int, int]]:
    """datatrove's pattern from left to right, less domains whose last label is a number."""
    found, place = [], 0
    while match := EMAIL.search(text, place):
        address = match[0]
        if not address.endswith("]") and address.rpartition(".")[2].isdigit():
            place = match.start() + address.index("@") + 1
        else:
            found.append(match.span())
            place = match.end()
    return found


@settings(max_examples=1000)
@example(
    "me@x.org you@x.org <a+b@c.org>; @decorated a@b. user@[10.1.2.3:] user@[10.1.2.3] mailto:x@y.zz?s=@@ x@y@z.org"
)
@example("name@host..org -a-b-c@d-e.f a..b@c.de .a@b.c é.a@b.c _@b.c package@1.2.3 éa@b.co 1@2.3@b.c")
@given(st.text(alphabet="ab1.@-+_[]: \n\u00a0é", max_size=40))
def test_emails_are_datatroves(text: str) -> None:
    assert list(emails(Page.of(text))) == stock_emails(text)


def test_addresses_are_replaced_as_by_datatrove() -> None:
    text = "IP addresses 8.8.8.8, 10.0.0.1, 93.184.216.34 and host 9.9.9.9; mail me@x.org, you@x.org, they@x.org"
    assert redact(text, FINDERS)[0] == PIIFormatter().format(text)
    assert redact(text, FINDERS) == redact(text, FINDERS), "no state is carried from one document to the next"


FOUND = {
    "ips": [
        "93.184.216.34", "http://8.8.8.8/x", "8.8.8.8:53", "8.8.8.0/24", "from 212.58.244.22-212.58.244.30",
        "server 4.6.2.1", "2a00:1450:4001:81b::200e", "[2606:4700:4700::1111]:443", "Version 3 runs on 93.184.216.34",
    ],
    "phones": [
        "+49 30 1234567", "+49 (0)30 123456-78", "+442079460958", "+1 (212) 555-0123", "+1.212.555.0123",
        "0049 30 1234567", "(212) 555-0123", "212-555-0123", "1-800-555-0199", "01 23 45 67 89", "01.23.45.67.89",
        "Tel. (030) 123456", "Telefon: 030/1234567", "Fax 555 1234", "тел.: 8 (495) 123-45-67",
        "phone number: 5551234567", "+7 495 123-45-67",
    ],
    "accounts": [
        "4111 1111 1111 1111", "5500-0000-0000-0004", "3782 822463 10005", "card number 4111111111111111",
        "Visa: 4012888888881881", "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432",
        "FR14 2004 1010 0505 0001 3M02 606", "NO9386011117947",
    ],
    "secrets": [
        "AKIA" + "AB1D" * 4, "ghp_" + "a1B2" * 9, "github_pat_" + "a1" * 41, "xoxb-123456789012-abcdefABCDEF",
        "AIza" + "a1-_b" * 7, "sk_live_" + "a1B2" * 6, "glpat-" + "a1B2_" * 4, "sk-" + "a1B2" * 12, "hf_" + "aB" * 17,
        "SG." + "a" * 22 + "." + "b" * 43,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
        "https://hooks.slack.com/services/T00000000/B00000000/" + "X" * 24, "postgres://app:hu9-x7Qe@db:5432/x",
        "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA7x/+" * 5 + "\n-----END RSA PRIVATE KEY-----",
        "api_key = 'a8f5f167f44f4964e6c998dee827110c'", '"client_secret": "Zk3v9QpL2xT7aBcD8eFgH1"',
    ],
    "emails": ["a.b+c@example.co.uk"],
}  # fmt: skip
LEFT_ALONE = [
    "version 4.6.2.1", "v4.6.2.1", "4.6.2.1 Planning", "section 130.2.40.1", "linux-5.15.86.1", "libfoo 1.2.3.44-5",
    "1.3.6.1.4.1.311", "Opera/102.0.1.44", "192.168.1.77", "127.0.0.1", "256.100.100.100", "std::fade::cafe",
    "2001:db8::1", "12:30:45", "2001:30:45", "firmware version 45.1.2.3", "Versions 4.6.200.1, 4.6.200.2",
    "2024-01-15 12:30:45", "2024.01.15", "01 02 03 04 05", "1 000 000 000", "1,234,567.89", "ISBN 978-3-16-148410-0",
    "1990-1995", "+48.856613", "000000000000000000000000", "7" * 40, "0 0.4470 0.7410", "00 70 00 00 01",
    "43.7.2.3. Opening a Cursor", "gsm 900 925-960", "+0200", "C++11 2011 2014", "3.14159265358979", "192-168-1234",
    "mobile 2024-01-15", "10 20 30 40 50 60", "4111 1111 1111 1112", "4111111111111111", "1234 5678 9012 3456",
    "DE89 3704 0044 0532 0130 01", "XX00 1234 1234 1234 12", "AKIAIOSFODNN7EXAMPLE", "AKIA", "ghp_short",
    "postgres://user:password@host/db", "https://user:$TOKEN@host", "http://u:<pass>@h",
    "api_key = 'your_api_key_goes_here_now'", "secret_key: antidisestablishmentarianism", "http://host:8080/a@b",
    "sk-learn-estimators", "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----", "user @ example",
    "@decorator", "lodash@4.17.21",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
@pytest.mark.parametrize("frame", ["{}", "Please see {}, thanks.", "Größe ({})\nнет", "— {}\n"])
def test_found(kind: str, text: str, frame: str) -> None:
    changed, found = redact(frame.format(text), FINDERS)
    assert set(found) == {kind}
    before, after = frame.split("{}")
    assert changed.startswith(before) and changed.endswith(after)
    again, more = redact(changed, [kind for kind in FINDERS if kind not in ("ips", "emails")])
    assert (again, more) == (changed, Counter()), "what stands for a find is not found"


@pytest.mark.parametrize("text", LEFT_ALONE)
@pytest.mark.parametrize("frame", ["{}", "Please see {}, thanks.", "Größe ({})\nнет"])
def test_left_alone(text: str, frame: str) -> None:
    assert redact(frame.format(text), FINDERS) == (frame.format(text), Counter())


def test_numbers_side_by_side_are_all_found() -> None:
    changed, found = redact(
        "Tel. 030 1234567, +1 212-555-0123 212-555-0124/212-555-0125 and 8.8.8.8:53, 9.9.9.9:53", FINDERS
    )
    assert changed == "Tel. <PHONE>, <PHONE> <PHONE>/<PHONE> and 22.214.171.124:53, 126.96.36.199:53"
    assert found == {"phones": 4, "ips": 2}


def test_prose_is_left_alone() -> None:
    for language in ("en", "de"):
        text = "\n".join(prose(language, 3))
        assert redact(text, FINDERS) == (text, Counter())


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*itertools.chain(*FOUND.values()), *LEFT_ALONE, " ", "\n", "x", "7", "@", "é"])))
def test_only_finds_change(pieces: list[str]) -> None:
    """The rest of the text stays, in its order, and what is not looked for does not matter."""
    text = " ".join(pieces)
    changed, found = redact(text, FINDERS)
    assert redact(text, ()) == (text, Counter())
    assert (changed == text) == (not found)
    spans = sorted(span for finder in FINDERS.values() for span in finder(Page.of(text)))
    assert all(0 <= start < end <= len(text) for start, end in spans)
    covered = bytearray(len(text))
    for start, end in spans:
        covered[start:end] = b"\1" * (end - start)
    place = 0
    for character, gone in zip(text, covered, strict=True):
        if not gone:
            place = changed.index(character, place) + 1


@settings(max_examples=500)
@given(
    st.text(alphabet="0123456789 .-/()+:@aAEeF=_\n\u00a0é٣", max_size=80)
    | st.text(max_size=80)
    | st.text(alphabet="0 ", min_size=20, max_size=60)
)
def test_no_text_breaks_it(text: str) -> None:
    changed, found = redact(text, FINDERS)
    assert found or changed == text


def hostile() -> list[str]:
    """Texts of half a megabyte on which a careless pattern takes quadratic time."""
    units = [
        "a", "a-", "@", "a@", "a.", "a@b", "a@b.", "1", "1.", "1.2.3.4.", "1.2.3.4 ", "1 ", "1-", "(1) ", "+1 ", "+1",
        "0049 ", "AA00", "AA00 ", "DE89", "eyJ", "eyJaaaaaaaaaa.", "://a:", "://a:bbb", "-----BEGIN PRIVATE KEY-----",
        "api_key=", "api_key", "ghp_", "xoxb-", "sk-", "2001:", "2001::", "a:", "tel ", "tel: 1 ", "AKIA",
        "hooks.slack.com/services/", ".", "-", " ", "0 0 ", "4111 1111 1111 1111 ", "é", "я1", "a@[1.2.3.4",
        "version ", "v 1.200.3.4 ", "pypi-AgE", "...@", "key:    ", "secret_", ":AA", "1:AA",
    ]  # fmt: skip
    texts = [(unit * (2**19 // len(unit) + 1))[: 2**19] for unit in units]
    noise = random.Random(0)
    return [
        *texts,
        "".join(noise.choices("ab01@.-:/+ ()_AK\n", k=2**19)),
        "0" + " " * 2**19,
        "a" * 2**19 + "@",
        "1" * 2**19 + "@x.org",
    ]


def test_hostile_text_takes_bounded_time() -> None:
    """All of it in a process that is killed after 60 s of CPU time: quadratic time would be hours."""
    code = "from test_privacy import *\nfor text in hostile():\n    redact(text, FINDERS)\nprint('done')"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))

    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    code = f"import sys\nsys.path[:0] = {paths!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.stdout == "done\n", done.stderr[-500:]


def document(text: str, kind: str = "text", title: str = "") -> Document:
    metadata: dict[str, Any] = {"kind": kind, "title": title, "url": "", "source": "s", "language": "en"}
    return Document(text=text, id="0" * 32, metadata=metadata)


PAGE = "Mail a@b.org or c@d.org, call +49 30 1234567, host 93.184.216.34"


def run(config: Privacy, documents: list[Document]) -> tuple[list[Document], PrivacyFilter, Recorder]:
    sink, recorder = Sink("privacy"), Recorder(["privacy"], "file", 1.0)
    sink.recorder = recorder
    step = PrivacyFilter(config, sink)
    kept = list(recorder.funnel.kept("privacy", step.run(recorder.funnel.reading("privacy", iter(documents)))))
    recorder.funnel.rows()
    return kept, step, recorder


def test_documents_and_titles_are_cleaned_and_counted() -> None:
    kept, step, _ = run(Privacy(), [document(PAGE, title="Of a@b.org"), document("nothing"), document(PAGE, "code")])
    assert kept[0].text == "Mail email@example.com or firstname.lastname@example.org, call <PHONE>, host 22.214.171.124"
    assert kept[0].metadata["title"] == "Of email@example.com"
    assert kept[1].text == "nothing"
    assert kept[2].text == kept[0].text.replace("<PHONE>", "+49 30 1234567").replace(
        "22.214.171.124", "93.184.216.34"
    ), "in code, numbers stay"
    none = {"documents": 0, "occurrences": 0}
    assert step.found == {
        "emails": {"documents": 2, "occurrences": 5}, "phones": {"documents": 1, "occurrences": 1},
        "ips": {"documents": 1, "occurrences": 1}, "secrets": none, "accounts": none,
    }  # fmt: skip
    assert add_found([step.found, step.found])["emails"] == {"documents": 4, "occurrences": 10}
    list(step.run(iter([document("nothing")])))
    assert step.found["emails"] == none, "counts are a unit's own"


def test_what_breaks_costs_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(text: str, kinds: Any) -> tuple[str, Counter[str]]:
        if text == "odd":
            raise ZeroDivisionError("by zero")
        return text, Counter()

    monkeypatch.setattr("pipelines.privacy.step.redact", breaks)
    kept, _, recorder = run(Privacy(), [document("one"), document("odd"), document("two")])
    assert [item.text for item in kept] == ["one", "two"]
    assert recorder.damaged[0]["error"] == "ZeroDivisionError: by zero"


def test_documents_are_dropped_or_left_as_configured() -> None:
    kept, step, recorder = run(Privacy(phones="drop", emails="keep"), [document(PAGE), document("ask a@b.org")])
    assert [item.text for item in kept] == ["ask a@b.org"]
    assert "emails" not in step.found
    assert step.found["phones"] == {"documents": 1, "occurrences": 1}
    (row,) = recorder.rejected
    assert (row["step"], row["reason"]) == ("privacy", "has_phones")
    assert "1234567" not in row["text"], "samples of what was dropped are for people to read"
    assert len(REPLACEMENTS) == len(FINDERS) == len(Privacy.model_fields)
