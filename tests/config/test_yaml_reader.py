"""Limits of YAML: no text takes the process down, and every fault is one line that says what is wrong."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twhin_core.config.yaml_reader import MAX_BYTES, MAX_DEPTH, read_yaml, to_yaml
from twhin_core.errors import UserError

LEVELS = ["a: &a [x, x, x, x, x, x, x, x, x]"] + [
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
]
MERGES = ["a: &a {x: 1}"] + [
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
]
CHAIN = ["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000))]

REFUSED = {
    "aliases of aliases": ("\n".join(LEVELS), "more than 1,000,000 values, counting each alias as a copy"),
    "merges of merges": ("\n".join(MERGES), "more than 1,000,000 values, counting each alias as a copy"),
    "a chain of aliases": ("\n".join(CHAIN), "nested more than 20 levels deep"),
    "a list in itself": ("a: &a [*a]", "an anchor that contains an alias of itself"),
    "a mapping in itself": ("a: &a {b: {c: *a}}", "an anchor that contains an alias of itself"),
    "a merge of itself": ("a: &a {<<: *a}", "an anchor that contains an alias of itself"),
    "a key in itself": ("&a {*a : 1}", "an anchor that contains an alias of itself"),
    "deep lists": ("[" * 100_000, "nested more than 20 levels deep"),
    "deep mappings": ("{a: " * 100_000, "nested more than 20 levels deep"),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(2000)), "nested more than 20 levels deep"),
    "5,000 digits": ("9" * 5000, "an integer of 5,000 characters"),
    "5,000 hexadecimal digits": ("0x" + "f" * 5000, "an integer of 5,002 characters"),
    "no digits": ("0x_", "'0x_' is not an integer"),
    "a word as integer": ("!!int a", "'a' is not an integer"),
    "a word as number": ("!!float a", "'a' is not a number"),
    "a word as truth": ("!!bool a", "'a' is not true or false"),
    "a word as date": ("!!timestamp a", "'a' is not a date"),
    "the 30th of February": ("2024-02-30", "'2024-02-30' is not a date"),
    "the 25th hour": ("2024-01-01 25:00:00", "'2024-01-01 25:00:00' is not a date"),
    "NUL in a value": ('a: "b\\0c"', "text with a NUL character"),
    "NUL in a key": ('"b\\0c": a', "text with a NUL character"),
    "half a surrogate pair": ('"\\ud800"', "text with half a surrogate pair"),
    "a key twice": ("a: 1\nb: 2\na: 3", "repeated key 'a'"),
    "a list as key": ("{[a]: 1}", "found unhashable key"),
    "an unknown alias": ("*a", "found undefined alias"),
    "an object": ("!!python/object:os.system a", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2", "expected a single document"),
    "too large": ("#" * (MAX_BYTES + 1), "larger than 16 MiB"),
    "too large in UTF-8": ("#" + "é" * (MAX_BYTES // 2), "larger than 16 MiB"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_text_beyond_a_limit_is_refused_in_one_line(text: str, message: str) -> None:
    begun = time.process_time()
    with pytest.raises(UserError) as refused:
        read_yaml(text, "here")
    assert time.process_time() - begun < 5
    assert str(refused.value).startswith("here: ")
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_anchors_and_merges_within_the_limits_are_kept() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {d: [*a, *b]}\ne: {<<: *b, y: 4}"
    a, b = {"x": 1, "y": 2}, {"x": 3, "y": 2}
    assert read_yaml(text, "here") == {"a": a, "b": b, "c": {"d": [a, b]}, "e": {"x": 3, "y": 4}}


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1])
def test_the_depth_allowed_is_the_same_written_out_and_by_aliases(depth: int) -> None:
    written = "[" * depth + "1" + "]" * depth
    aliased = f"[&a {'[' * (depth // 2)}1{']' * (depth // 2)}, {'[' * (depth - depth // 2 - 1)}*a"
    aliased += "]" * (depth - depth // 2)
    for text in (written, aliased) if depth > 1 else (written,):
        if depth <= MAX_DEPTH:
            read_yaml(text, "here")
        else:
            with pytest.raises(UserError, match="nested more than 20 levels deep"):
                read_yaml(text, "here")


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | TEXT
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))


@settings(max_examples=200)
@given(TREES)
def test_what_yaml_writes_is_read_back(tree: object) -> None:
    assert read_yaml(to_yaml(tree), "here") == tree


@settings(max_examples=500)
@given(st.text(st.sampled_from("&*a[]{}:,-!<>|'\"#%@\n \t0x1._e+?~\x00\x85é"), max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        read_yaml(text, "here")
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
