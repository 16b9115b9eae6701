"""Equal things have one fingerprint, different things have two, and what has no canonical form is refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illada.artifacts import StageIdentity, canonical_json, fingerprint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Colour(IntEnum):
    """An int that is more than an int."""

    RED = 1


def shuffled(value: Any) -> Any:
    """The same value with every mapping in another order and every list a tuple."""
    if isinstance(value, dict):
        return OrderedDict((key, shuffled(item)) for key, item in reversed(value.items()))
    return tuple(map(shuffled, value)) if isinstance(value, list) else value


@settings(deadline=None)
@given(JSON)
def test_order_of_keys_and_kind_of_sequence_do_not_count(value: Any) -> None:
    assert canonical_json(shuffled(value)) == canonical_json(value)


@settings(deadline=None)
@given(JSON, JSON)
def test_canonical_text_is_one_to_one(one: Any, two: Any) -> None:
    # repr is an independent canonical form here: it tells 1, 1.0 and True apart
    def sort(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: sort(value[key]) for key in sorted(value)}
        return [sort(item) for item in value] if isinstance(value, list) else value

    assert (canonical_json(one) == canonical_json(two)) == (repr(sort(one)) == repr(sort(two)))


@settings(deadline=None)
@given(JSON)
def test_canonical_text_reads_back(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


def test_known_fingerprint() -> None:
    text = '{"a":[1,2.5,null],"\\u00e9":true}'
    assert canonical_json({"é": True, "a": (1, 2.5, None)}) == text
    assert fingerprint({"é": True, "a": (1, 2.5, None)}) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": [0, math.nan]}}, r"value\.a\.b\[1\]: nan has no canonical form"),
        (math.inf, "value: inf has no canonical form"),
        ({1: "x"}, "value: key 1 is not a string"),
        ({"a": {1, 2}}, r"value\.a: a set has no canonical form"),
        (b"bytes", "value: a bytes has no canonical form"),
        (Path("x"), "has no canonical form"),
        (np.float64(1.0), "value: a float64 has no canonical form"),
        (np.int64(1), "value: a int64 has no canonical form"),
        (Colour.RED, "value: a Colour has no canonical form"),
        (object(), "value: a object has no canonical form"),
        (len, "has no canonical form"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fingerprint(value)


IDENTITY = {"stage": "curate", "version": 1, "config": {"x": 1}, "inputs": {"web": "0" * 64}}


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "curate2"},
        {"version": 2},
        {"config": {"x": 2}},
        {"config": {"x": 1.0}},
        {"config": {"x": True}},
        {"inputs": {"web": "1" * 64}},
        {"inputs": {"code": "0" * 64}},
        {"inputs": {}},
    ],
)
def test_every_part_of_an_identity_counts(change: dict[str, Any]) -> None:
    assert StageIdentity(**{**IDENTITY, **change}).fingerprint != StageIdentity(**IDENTITY).fingerprint


def test_identity_is_stable_over_time() -> None:
    """A stored artifact must stay findable: this value may change only with a reason to rebuild everything."""
    assert StageIdentity(**IDENTITY).fingerprint == ("3f682c1d21822abb8bbdd5bf98dec97b44d74db4e72344c6796f00b1c84aab82")


@pytest.mark.parametrize("name", ["", ".", "..", "../etc", "a/b", "a b", "-x", "x" * 81, "naïve", "a\n"])
def test_stage_name_is_a_plain_folder_name(name: str) -> None:
    with pytest.raises(ValueError, match="stage name"):
        StageIdentity(**{**IDENTITY, "stage": name})
