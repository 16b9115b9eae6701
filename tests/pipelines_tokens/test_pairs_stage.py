"""The pairs stage: derived and given conversations, chosen and split by hash, rendered like the chat template."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from illada.artifacts import Artifact, NoProgress
from illada.config import ConfigError, DataConfig, Pairs, PythonCode, Tokenizer
from illada.data.shards import TokenShards
from illada.data.tokenizer import TextTokenizer
from pipelines.conversation import pairs_identity, read_conversations
from pipelines.derive import derive_conversations
from pipelines.documents import TextDocument
from pipelines.pairs import build_pairs
from pipelines.sample import held_out

DERIVED = Pairs(max_pairs=150, max_characters=300, held_out=0.1)
SFT = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sft"


def build(stages, config: Pairs, documents: Artifact, tokenizer: Artifact, name: str = "pairs") -> Artifact:
    return stages.run(name, lambda attempt: build_pairs(config, [documents], tokenizer, attempt, NoProgress()))


@pytest.fixture(scope="module")
def pairs(shared, corpus: Artifact, tokenizer: Artifact) -> Artifact:
    return build(shared, DERIVED, corpus, tokenizer)


def table(artifact: Artifact) -> list[dict[str, object]]:
    rows = pq.read_table(artifact.path("pairs.parquet")).to_pylist()
    return [{**row, "messages": json.loads(row["messages"])} for row in rows]


def shard_rows(artifact: Artifact, split: str) -> list[dict[str, object]]:
    shards = TokenShards.open(artifact.local() / split)
    return [row for index in range(len(shards)) for row in shards.batch(index).to_pylist()]


def write_lines(path: Path, *records: object) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return str(path)


def test_balanced_over_kinds_up_to_the_limit(pairs: Artifact) -> None:
    assert pairs.statistics["origins"] == {"docstring-signature": 50, "signature-docstring": 50, "title-opening": 50}
    assert len(table(pairs)) == 150


def test_a_small_kind_leaves_its_share_to_the_others(stages, texts, tokenizer: Artifact) -> None:
    pages, files = [t for t in texts if t.title][:10], [t for t in texts if t.language == "python"]
    made = build(stages, DERIVED, stages.documents("few-pages", pages + files), tokenizer)
    assert made.statistics["origins"] == {"docstring-signature": 70, "signature-docstring": 70, "title-opening": 10}


def test_shards_are_the_rendered_conversations(pairs: Artifact, tokenizer: Artifact) -> None:
    text = TextTokenizer.load(tokenizer.local())
    rows = {row["id"]: row for split in ("train", "held_out") for row in shard_rows(pairs, split)}
    conversations = table(pairs)
    assert list(rows) and set(rows) == {conversation["id"] for conversation in conversations}
    for conversation in conversations:
        row = rows[conversation["id"]]
        assert row["input_ids"] == text.chat(conversation["messages"])
        assert row["bytes"] == len(text.decode(row["input_ids"]).encode())


def test_statistics_add_up(pairs: Artifact) -> None:
    statistics = pairs.statistics
    splits = [statistics["train"], statistics["held_out"]]
    for key in ("documents", "tokens", "bytes"):
        for group in ("languages", "sources"):
            assert sum(entry[key] for entry in statistics[group].values()) == sum(split[key] for split in splits)
    assert sum(split["documents"] for split in splits) == sum(statistics["origins"].values())


def test_a_document_is_on_one_side_and_the_one_tokenization_gives_it(pairs: Artifact, texts) -> None:
    origin = {c.id: c.origin for text in texts for c in derive_conversations(text, DERIVED.max_characters)}
    for split in ("train", "held_out"):
        rows = shard_rows(pairs, split)
        assert rows
        for row in rows:
            assert held_out(origin[row["id"]], DERIVED.held_out, DERIVED.seed) == (split == "held_out")


@pytest.mark.parametrize(("change", "fine"), [({}, True), ({"seed": 1}, False), ({"held_out": 0.005}, False)])
def test_tuning_cannot_see_held_out_documents(change: dict[str, float], fine: bool) -> None:
    def config(**pairs: object) -> DataConfig:
        source = PythonCode(name="code", files=1)
        return DataConfig(sources=(source,), tokenizer=Tokenizer(vocab_size=300), pairs=Pairs(**pairs))

    assert config(**change, files=("x.jsonl",))
    with contextlib.nullcontext() if fine else pytest.raises(ValueError, match="must not see held-out documents"):
        config(**change)


def test_order_and_files_do_not_show(stages, pairs: Artifact, texts, tokenizer: Artifact) -> None:
    documents = stages.documents("reordered", texts[::-1], files=2)
    assert build(stages, DERIVED, documents, tokenizer).content == pairs.content


def test_lengths_are_bounded(pairs: Artifact) -> None:
    for conversation in table(pairs):
        assert sum(len(message["content"]) for message in conversation["messages"]) <= DERIVED.max_characters


def test_nothing_to_derive_from(stages, texts, tokenizer: Artifact) -> None:
    untitled = [text for text in texts if not text.title and text.language != "python"]
    with pytest.raises(ValueError, match=r"0 conversations from 0 documents .* data\.pairs\.files"):
        build(stages, DERIVED, stages.documents("untitled", untitled), tokenizer)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_neither_side_is_empty(stages, tmp_path: Path, corpus: Artifact, tokenizer: Artifact, count: int) -> None:
    records = [{"prompt": f"question {n}", "response": f"answer {n}"} for n in range(count)]
    config = Pairs(files=(write_lines(tmp_path / "few.jsonl", *records),))
    made = build(stages, config, corpus, tokenizer)
    assert made.statistics["train"]["documents"] + made.statistics["held_out"]["documents"] == count


def test_files_of_both_forms(stages, tmp_path: Path, corpus: Artifact, tokenizer: Artifact) -> None:
    talk = [
        {"role": "system", "content": "Be brief.", "weight": 1},
        {"role": "user", "content": "Hé?"},
        {"role": "assistant", "content": "<|im_end|> ho"},
    ]
    one = write_lines(tmp_path / "one.jsonl", {"messages": talk, "extra": 1}, "", {"prompt": "p", "response": "r"})
    write_lines(tmp_path / "more-1.jsonl", {"prompt": "p", "response": "r"}, {"prompt": "q", "response": "s"})
    config = Pairs(files=(one, str(tmp_path / "more-*.jsonl")))
    made = build(stages, config, corpus, tokenizer)
    clean = [{"role": message["role"], "content": message["content"]} for message in talk]
    contents = [row["messages"] for row in table(made)]
    assert len(contents) == 3 and clean in contents  # the repeated one counts once
    assert made.statistics["origins"] == {"file": 3}
    assert sum(entry["documents"] for entry in made.statistics["sources"].values()) == 3


def test_max_pairs_of_files_by_hash(stages, tmp_path: Path, corpus: Artifact, tokenizer: Artifact) -> None:
    records = [{"prompt": f"question {n}", "response": f"answer {n}"} for n in range(40)]
    made = []
    for name, order in (("a", records), ("b", records[::-1])):
        (tmp_path / name).mkdir()
        config = Pairs(files=(write_lines(tmp_path / name / "x.jsonl", *order),), max_pairs=10)
        made.append(build(stages, config, corpus, tokenizer, name))
    assert made[0].statistics["origins"] == {"file": 10}
    assert made[0].content == made[1].content


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be"),
        ({"prompt": "x"}, "must be"),
        ({"prompt": "x", "response": 5}, "message 1: content must be text"),
        ({"prompt": " ", "response": "x"}, "message 0: content must be text that is not empty"),
        ({"messages": []}, "at least one message"),
        ({"messages": "hi"}, "at least one message"),
        ({"messages": ["hi"]}, "message 0: role None"),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            "message 0: role 'bot' must be one of system, user, assistant",
        ),
        ({"messages": [{"role": "user", "content": "x"}]}, "last message must be the assistant's"),
        ('{"prompt": "\\ud800", "response": "x"}', "message 0: content has an unpaired surrogate"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: object, what: str) -> None:
    path = write_lines(tmp_path / "bad.jsonl", {"prompt": "p", "response": "r"}, line)
    with pytest.raises(ValueError, match=rf"bad\.jsonl:2: .*{what}"):
        list(read_conversations([path]))


def test_bad_bytes_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"prompt": "p", "response": "r"}\n\xff\xff\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: is not UTF-8"):
        list(read_conversations([str(tmp_path / "bad.jsonl")]))


def test_missing_files_are_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.pairs\.files: nowhere/\*\.jsonl matches no file"):
        list(read_conversations(["nowhere/*.jsonl"]))


def test_identity_follows_the_files_content(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "p", "response": "r"})
    before = pairs_identity(Pairs(files=(path,)))
    write_lines(tmp_path / "x.jsonl", {"prompt": "p", "response": "changed"})
    assert pairs_identity(Pairs(files=(path,))) != before
    assert pairs_identity(Pairs())["files"] == []


def test_published_instruction_data(stages, corpus: Artifact, tokenizer: Artifact) -> None:
    path = SFT / "dolly_hhrlhf_train_small.jsonl"
    if not path.exists():
        pytest.skip("no shared data here")
    made = build(stages, Pairs(files=(str(path),), max_pairs=50), corpus, tokenizer)
    assert made.statistics["origins"] == {"file": 50}


def test_function_conversations(texts: list[TextDocument]) -> None:
    (document,) = [text for text in texts if "add_5(" in text.text]
    got = {(c.kind, c.messages[0]["content"], c.messages[1]["content"]) for c in derive_conversations(document, 500)}
    add, fetch = "def add_5(left, right=0, *rest, key: int=5) -> int:", "async def fetch_5(url):"
    first, second = "Return the sum of 5 and both numbers.", "Fetch the page number 5 from the network."
    assert got == {
        ("docstring-signature", f"Write the signature of the function: {first}", add),
        ("docstring-signature", f"Write the signature of the function: {second}", fetch),
        ("signature-docstring", f"What does this function do?\n\n{add}", first),
        ("signature-docstring", f"What does this function do?\n\n{fetch}", second),
    }


@pytest.mark.parametrize("text", ["def broken(:", "x = '\0'", "(" * 300, "\ufeff" * 3 + "x"])
def test_code_that_does_not_parse_gives_none(text: str) -> None:
    document = TextDocument(
        text=text, id="0", url="", source="code", language="python", language_score=1.0, title="module"
    )
    assert list(derive_conversations(document, 500)) == []


def page(text: str, title: str = "The title", language: str = "en") -> TextDocument:
    return TextDocument(text=text, id="0", url="", source="web", language=language, language_score=1.0, title=title)


def test_openings() -> None:
    def answer(document: TextDocument, most: int = 200) -> list[str]:
        return [c.messages[1]["content"] for c in derive_conversations(document, most)]

    prompt = len("Write the opening of a page titled: The title")
    assert answer(page("The\n title\n\nFirst paragraph here.\n\nSecond one.")) == [
        "First paragraph here.\n\nSecond one."
    ]
    assert answer(page("First paragraph here.\n\nSecond one."), prompt + 25) == ["First paragraph here."]
    assert answer(page("A first sentence. And then a longer one."), prompt + 25) == ["A first sentence."]
    assert answer(page("No sentence ends within the limit of this"), prompt + 25) == []
    assert answer(page("Too short.")) == []
    assert answer(page("A text without a title.", title=" ")) == []
    assert answer(page("A text that has no room."), 10) == []


def test_openings_speak_the_pages_language() -> None:
    for language, begin in (("fr", "Écris"), ("de", "Schreibe"), ("es", "Escribe"), ("xx", "Write")):
        (conversation,) = derive_conversations(page("Some words are here.", language=language), 300)
        assert conversation.messages[0]["content"].startswith(begin)
        assert conversation.language == language
