"""YAML in, the same YAML out; `extends:` derives a run from another in a few readable lines (base + differences)."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from illada.config.base import Config, ConfigError

C = TypeVar("C", bound=Config)


def load_config(path: str | Path, kind: type[C], overrides: Sequence[str] = ()) -> C:
    """Read `path` (following `extends:`), apply `key.sub=value` overrides, and validate.

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest valid name), wrong value; names file and key.
    """
    return parse_config(read_config(path, overrides), kind, where=str(path))


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What `load_config` reads, before it is validated: for a reader that has yet to find out the kind of record."""
    raw = _read(Path(path), seen=())
    apply_overrides(raw, overrides)
    return raw


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `key.sub=value` in a mapping, the values read as YAML. Raises ConfigError naming the bad override."""
    for override in overrides:
        _set(raw, override)


def parse_config(raw: Mapping[str, Any], kind: type[C], where: str = "configuration") -> C:
    """Validate an already-read mapping. Raises ConfigError naming `where` and every bad key."""
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as error:
        lines = [_explain(item, kind) for item in _causes(error)]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def dump_config(config: Config) -> str:
    """The configuration as YAML, complete with defaults; loading it again gives an equal record."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ConfigError(f"{path}: `extends` goes round in a circle through {', '.join(map(str, seen))}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML configuration") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; give the path of a YAML configuration") from None
    try:
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys, got {type(raw).__name__}")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    return _merge(_read(path.parent / str(base), (*seen, path)), raw)


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: write it as key.sub=value")
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent} is not a section")
        node = child
    try:
        node[last] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML ({' '.join(str(error).split())})") from None


def _causes(error: ValidationError) -> list[Mapping[str, Any]]:
    """Without "too short" of a sequence whose items are what is wrong: pydantic counts the good ones."""
    items: list[Mapping[str, Any]] = list(error.errors())
    return [
        item
        for item in items
        if item["type"] != "too_short"
        or not any(other["loc"][:-1][: len(item["loc"])] == item["loc"] for other in items)
    ]


def _explain(item: Mapping[str, Any], kind: type[BaseModel]) -> str:
    location = tuple(item["loc"])
    key = ".".join(str(part) for part in location) or "configuration"
    if item["type"] != "extra_forbidden":
        message = str(item["msg"]).removeprefix("Value error, ")
        return f"{key}: {message}" if location else message
    valid = sorted({name for model in _models_at(kind, location[:-1]) for name in model.model_fields})
    near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
    return f"{key}: unknown key; {hint}"


def _models_at(kind: Any, location: tuple[Any, ...]) -> list[type[BaseModel]]:
    """The record types a dotted location may stand for (unions give several; discriminator tags narrow them)."""
    models = _flatten(kind)
    for part in location:
        following: list[type[BaseModel]] = []
        for model in models:
            if isinstance(part, str) and part in model.model_fields:
                following += _flatten(model.model_fields[part].annotation)
        if following:
            models = following
            continue
        tagged = [m for m in models if "kind" in m.model_fields and part in _tags(m)]
        models = tagged or models  # an index into a sequence, or a union member's tag
    return models


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    return typing.get_args(model.model_fields["kind"].annotation)


def _flatten(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _flatten(argument)]
