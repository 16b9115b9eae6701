"""Conversations, and reading them from the user's JSON-lines files, with errors that name file and line."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illada.artifacts import fingerprint, sha256_file
from illada.config import ConfigError, Pairs
from illada.data.tokenizer import ROLES

_FORMS = '{"messages": [{"role", "content"}, ...]} or {"prompt", "response"}'


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Messages ({"role", "content"}) that end with the assistant's; `kind` says how they came about.

    `origin` is what must not be split between training and held-out: the id of the document they were derived from.
    """

    messages: list[dict[str, str]]
    kind: str
    origin: str
    source: str
    language: str

    @property
    def id(self) -> str:
        """32 hexadecimal digits that depend on kind and messages alone."""
        return fingerprint([self.kind, self.messages])[:32]


def pairs_identity(config: Pairs) -> dict[str, Any]:
    """The configuration, and the content of the files it names: a changed file is another stage.

    Raises:
        ConfigError: a path or glob that matches no readable file.
    """
    files = [{"name": path.name, "sha256": sha256_file(path)} for path in conversation_files(config.files)]
    return {**config.identity(), "files": files}


def conversation_files(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and globs stand for, sorted within each. ConfigError for one that matches none."""
    files: list[Path] = []
    for pattern in patterns:
        names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        found = [Path(name) for name in names if Path(name).is_file()]
        if not found:
            raise ConfigError(f"data.pairs.files: {pattern} matches no file; give the path of a JSON-lines file")
        files += found
    return files


def read_conversations(patterns: Sequence[str]) -> Iterator[Conversation]:
    """All conversations of the files. Raises ValueError naming file, line and what is wrong with it."""
    for path in conversation_files(patterns):
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    messages = _messages(json.loads(line))
                except UnicodeDecodeError:
                    raise ValueError(f"{path}:{number}: is not UTF-8 text") from None
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}:{number}: is not JSON ({error})") from None
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: {error}") from None
                origin = fingerprint(messages)[:32]
                yield Conversation(messages=messages, kind="file", origin=origin, source=path.name, language="und")


def _messages(record: Any) -> list[dict[str, str]]:
    """The messages of one parsed line, with only their role and content."""
    if isinstance(record, dict) and "messages" in record:
        raw = record["messages"]
    elif isinstance(record, dict) and {"prompt", "response"} <= record.keys():
        raw = [
            {"role": "user", "content": record["prompt"]},
            {"role": "assistant", "content": record["response"]},
        ]
    else:
        raise ValueError(f"must be {_FORMS}")
    if not isinstance(raw, list) or not raw:
        raise ValueError("messages must be a list of at least one message")
    messages = []
    for index, message in enumerate(raw):
        role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
        if role not in ROLES:
            raise ValueError(f"message {index}: role {role!r} must be one of {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"message {index}: content must be text that is not empty")
        if any("\ud800" <= character <= "\udfff" for character in content):
            raise ValueError(f"message {index}: content has an unpaired surrogate, which is not Unicode text")
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "assistant":
        raise ValueError("the last message must be the assistant's")
    return messages
