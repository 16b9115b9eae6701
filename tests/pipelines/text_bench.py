"""A small Ray, pages of prose in two languages, and a way to run a stage builder on a store."""

from __future__ import annotations

import html
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from illada.artifacts import (
    Artifact,
    Attempt,
    NoProgress,
    StageIdentity,
    StageInterrupted,
    Store,
    sha256_file,
    write_json,
)
from pipelines.warc import WarcWriter

SENTENCES = {
    "en": """
The library opens at nine in the morning and closes when the last reader has gone home.
Nobody in the village remembered who had planted the old chestnut tree behind the school.
She wrote her letters by hand, because she believed that ink makes people more honest.
After the storm the fishermen went down to the harbour and counted their boats.
The recipe asks for two onions, a little salt, and more patience than most cooks have.
When the train stopped between two stations, the passengers began to talk to each other.
He had promised to repair the clock, but the spring that he needed could not be found.
In winter the road over the pass is closed, and the mail comes only twice a week.
The children built a bridge of stones across the stream and were proud of it for days.
A good map shows not only the roads but also the places where there is none.
My grandmother kept the seeds of every summer in small paper bags with dates on them.
The committee could not agree on a colour, so the fence has stayed grey until today.
You can hear the sea from the upper windows if the wind comes from the west.
It was the third time that the printer had lost the page with the answers on it.
The gardener says that roses want to be left alone and that nobody believes him.
They measured the field with a rope that had been wet and was now a foot too short.
Before the market opens, the bakers carry their bread through the narrow streets.
The doctor listened to the whole story and then asked about the neighbour's dog.
An apprentice learns more from one broken tool than from a day of good advice.
The lamp in the hall has been burning since the night the soldiers came back.
We took the long way home, past the mill and the two ponds with the herons.
The price of the house was not high, but the roof would cost as much again.
Every spring the river carries a little of the lower meadow to the other bank.
His report described the accident so politely that no one was to blame for it.
""",
    "de": """
Die Bücherei öffnet um neun Uhr und schließt, wenn der letzte Leser nach Hause gegangen ist.
Niemand im Dorf wusste noch, wer die alte Kastanie hinter der Schule gepflanzt hatte.
Sie schrieb ihre Briefe mit der Hand, weil sie glaubte, dass Tinte die Menschen ehrlicher macht.
Nach dem Sturm gingen die Fischer zum Hafen hinunter und zählten ihre Boote.
Für das Rezept braucht man zwei Zwiebeln, ein wenig Salz und viel Geduld.
Als der Zug zwischen zwei Bahnhöfen hielt, begannen die Reisenden miteinander zu reden.
Er hatte versprochen, die Uhr zu reparieren, aber die Feder dafür war nicht zu finden.
Im Winter ist die Straße über den Pass gesperrt, und die Post kommt nur zweimal in der Woche.
Die Kinder bauten eine Brücke aus Steinen über den Bach und waren tagelang stolz darauf.
Eine gute Karte zeigt nicht nur die Wege, sondern auch die Orte, an denen es keine gibt.
Meine Großmutter hob die Samen von jedem Sommer in kleinen Tüten aus Papier auf.
Der Ausschuss konnte sich auf keine Farbe einigen, und so ist der Zaun bis heute grau.
Man hört das Meer von den oberen Fenstern aus, wenn der Wind von Westen kommt.
Der Gärtner sagt, dass die Rosen in Ruhe gelassen werden wollen, und niemand glaubt ihm.
Bevor der Markt beginnt, tragen die Bäcker ihr Brot durch die engen Gassen.
Der Arzt hörte sich die ganze Geschichte an und fragte dann nach dem Hund des Nachbarn.
""",
}


def prose(language: str, seed: int, sentences: int = 12) -> list[str]:
    """Paragraphs of three sentences, drawn by `seed`."""
    drawn = random.Random(seed).sample(SENTENCES[language].strip().splitlines(), sentences)
    return [" ".join(drawn[first : first + 3]) for first in range(0, sentences, 3)]


def page(paragraphs: list[str], title: str) -> bytes:
    """An HTML page with navigation around the text."""
    body = "".join(f"<p>{html.escape(paragraph)}</p>\n" for paragraph in paragraphs)
    return (
        f"<!DOCTYPE html><html><head><meta charset='utf-8'><title>{title}</title></head><body>"
        f"<nav><a href='/'>Home</a> <a href='/a'>About</a></nav><main><h1>{title}</h1>\n{body}</main></body></html>"
    ).encode()


def write_archive(path: Path, pages: Mapping[str, bytes]) -> Path:
    """A WARC file of `pages` by address."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with WarcWriter(path, "test") as writer:
        for url, payload in pages.items():
            writer.write(url, payload, datetime(2024, 5, 1, tzinfo=UTC))
    return path


Build = Callable[[Attempt], dict[str, Any]]


class Bench:
    """Runs builders as the workflow would."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)

    def run(self, stage: str, config: Mapping[str, Any], build: Build) -> Artifact:
        """Build and publish."""
        identity = StageIdentity(stage=stage, version=1, config=config, inputs={})
        with self.store.attempt(identity) as attempt:
            statistics = build(attempt)
            return self.store.publish(attempt, statistics, {}, started=0.0)

    def source(self, name: str, files: list[tuple[Path, str]], **more: Any) -> Artifact:
        """An acquisition that lists `files` (path, kind) where they are."""
        rows = [
            {
                "path": str(path),
                "kind": kind,
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
                "made_from": [],
            }
            for path, kind in files
        ]
        inventory = {"source": name, "origin": "files", "licence": "test", "files": rows, **more}

        def build(attempt: Attempt) -> dict[str, Any]:
            write_json(attempt.output / "inventory.json", inventory)
            return {}

        return self.run(f"acquire-{name}", {"inventory": inventory}, build)


class Interrupt(NoProgress):
    """Asks to stop once something is done."""

    def update(self, done: float, **figures: float | str) -> None:
        if done > 0:
            raise StageInterrupted
