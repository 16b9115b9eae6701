"""The card says what the records say, is sound Markdown with a YAML head, and its code runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from illada.artifacts import Artifact
from illada.release.card import cell, fenced, share, size


@pytest.fixture(scope="module")
def card(released: Artifact) -> str:
    return released.path("README.md").read_text(encoding="utf-8")


def test_head_is_yaml_that_hubs_read(card: str) -> None:
    _, head, _ = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "apache-2.0",
        "language": ["en", "fr"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["diffusion-language-model", "masked-diffusion", "illada", "custom_code"],
    }


@pytest.mark.parametrize(
    "text",
    [
        "# tiny\n",
        "A model to test releases with.",
        "| web | debian | GPL \\| others | 2 | 7 B |",
        "| python | 2 | 900.0 kB | 300,000 |",
        "| extraction\\|language | 1,000 | 900 | 90.0% | 1.2 MB | language 90, short 8, damaged 2 |",
        "| web | GPL \\| others | 900 | 10 B | 4 |",
        "| code | GPL \\| others | 0 | 0 B | 0 |",
        "90 of 900 scored. Of examples it had not seen\n(40 positive, 60 negative)",
        "with a probability of 0.9877.",
        "Left out, because reading it ended every worker that tried",
        "crawl/7.warc.gz (killed \\| by a signal, 3 times).\n",
        "| emails | replaced | 12 | 34 |\n| secrets | document dropped | 1 | 1 |\n",
        "| window / global batch | 64 tokens / 4 windows | 64 tokens / 4 windows |\n",
        "| final training loss | 5.4321 | - |\n",
        "In sft each row is one conversation: its prompt stays visible",
        "1,230 of 1,234 conversations were trained on",
        "| web \\| x | fr | 40,000 | 76,900 | 76,800 | 1.92 |\n",
        "| before SFT | 5.5000 ± 0.0500 | 2.2000 ± 0.0200 | 3.1740 | 48 x 4 |",
        "| after SFT | 5.5000 ± 0.0500",
        "docstring 12, title 30.",
        'after SFT, asked "What \\| is this?":\n\n````text\n```python\nprint(1)\n```\n````\n',
        "**These are not results of this model.**",
        "| iLLaDA 8B | 74.8 |",
        "a block that was revealed is never revised",
    ],
)
def test_card_says(card: str, text: str) -> None:
    assert text in card


def test_every_artifact_is_listed(card: str, released: Artifact) -> None:
    artifacts = json.loads(released.path("provenance.json").read_text())["artifacts"]
    assert {artifact["stage"] for artifact in artifacts} == set(released.record["inputs"])
    for artifact in artifacts:
        assert f"| {artifact['stage']} | `{artifact['fingerprint'][:16]}` |" in card
    lost = {artifact["stage"]: artifact["quarantined"] for artifact in artifacts if "quarantined" in artifact}
    assert [row["file"] for row in lost["curate"]] == ["crawl/7.warc.gz"]


def test_tables_are_rectangular_and_nothing_is_left_unfilled(card: str) -> None:
    assert "{{" not in card
    assert "{%" not in card
    assert "None" not in card
    assert "\n\n\n" not in card
    assert not re.search(r"[ \t]+$", card, flags=re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE):
        lines = table.splitlines()
        assert re.fullmatch(r"\|(---\|)+", lines[1]), lines[1]
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(columns) == 1, table


def test_the_code_of_the_card_runs(card: str, released: Artifact, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(import torch.*?)```", card, flags=re.DOTALL)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code.replace('folder = "."', f"folder = {str(released.local())!r}")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "custom code" not in done.stdout, "loading must not ask"


def test_text_stays_in_its_place() -> None:
    assert cell("a | b\nc") == "a \\| b c"
    assert fenced("no ticks") == "```text\nno ticks\n```"
    assert fenced("````") == "`````text\n````\n`````"
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 12 * 10**15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.2 MB",
        "12000.0 TB",
    ]
    assert share(1, 3) == "33.3%"
    assert share(0, 0) == "-"
