"""Patterns: whole words of either case, expressions, and those that are refused."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import ConfigError
from softprompt.tasks.answers.patterns import Failure, Patterns
from softprompt.tasks.config.config import parse_config
from softprompt.text import UNSPACED


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("bad", "So BAD!", "badge"),
        ("bad  word", "a bad\nword", "bad, word"),
        ("c++", "in C++20", "c+"),
        ("STRASSE", "die straße", "strassen"),
        ("café", "cafe\u0301 x", "cafe"),
        (r"/\d{3}-\d{4}/", "555-1234", "555 1234"),
        ("/Bad/", "Bad", "bad"),
        ("/Bad/i", "bad", "b"),
        ("/^$/", "", "x"),
        ("a/b", "A/B", "a b"),
    ],
)
def test_a_pattern_is_found_where_it_stands(pattern: str, matching: str, other: str) -> None:
    assert Patterns(must_not=[pattern]).check(matching) == [Failure("must_not", pattern)]
    assert Patterns(must_not=[pattern]).check(other) == []
    assert Patterns(must=[pattern]).check(other) == [Failure("must", pattern)]
    assert Patterns(must=[pattern]).check(matching) == []


@given(st.text(st.characters(categories=["L", "N"]), min_size=1), st.text(st.characters(categories=["L", "N"]), min_size=1))
def test_any_word_is_found_whole_and_not_as_a_part(word: str, more: str) -> None:
    assert Patterns(must=[word]).check(f"- {word.upper().lower()}." if word.isascii() else f"- {word}.") == []
    apart = all(re.match(f"[{UNSPACED}]", letter) for letter in (word[0], word[-1]))  # each is a word of its own
    assert bool(Patterns(must_not=[word]).check(f"x{word}x")) == apart


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("  ", "is blank"),
        ("/(/", "is no regular expression .*; mend it"),
        ("/a/x", "'x' is no flag"),
        ("/a*/", "matches every text"),
        ("/(a+)+b/", "can take without end"),
        ("/(a|aa)+b/", "can take without end"),
        ("/(?=(a+)+)b/", "can take without end"),
        ("/(a?){30}a{30}/", "can take without end"),
        ("/.*a.*b.*c.*d/", "can take without end"),
        ("/a{1,99999999999999999999}b/", "is no regular expression"),
    ],
)
def test_a_pattern_that_is_none_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Patterns(must_not=[pattern])


def test_what_is_let_in_is_quick() -> None:
    patterns = Patterns(must_not=[r"/(\d{1,3}\.){3}\d{1,3}/", r"/[\w.]+@[\w.]+\.\w+/", "/(cat|dog){1,3}x/", "/(?:ab)+c/"])
    began = time.process_time()
    assert patterns.check("a.b" * 100 + "cat" * 60 + "1a." * 60) == []
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"objective": "unlikelihood", "unwanted_patterns": ["a"], "labels": ["a", "b"]},
            "patterns are for tasks that write",
        ),
        ({"unwanted_patterns": ["a"]}, "only `objective: unlikelihood` has them"),
        ({"objective": "unlikelihood", "unwanted": "u", "unwanted_every": 5}, "there are no `unwanted_patterns`"),
        ({"objective": "unlikelihood"}, "name their column with `unwanted`, or what must not be written"),
        ({"objective": "unlikelihood", "unwanted_patterns": ["/(/"]}, "unwanted_patterns: '/\\(/' is no regular expression"),
    ],
)
def test_a_task_file_with_patterns_of_no_use_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"task": "t", **fields})


def test_words_are_whole_in_scripts_whose_vowels_are_marks() -> None:
    ram, sita = "\u0930\u093e\u092e", "\u0938\u0940\u0924\u093e"
    for word in (ram, sita):
        patterns = Patterns(must_not=[word])
        assert patterns.check(f"- {word}.")
        assert not patterns.check(f"{word}\u0902 {word}\u0930 \u0930{word}")


def test_a_word_of_chinese_or_japanese_is_found_between_others_as_no_space_stands_there() -> None:
    for word, text in (("苹果", "我吃苹果了。"), ("りんご", "私はりんごが好き"), ("iPhone", "我的iPhone很好")):
        assert Patterns(must=[word]).check(text) == []
        assert Patterns(must_not=[word]).check(text)
    assert Patterns(must_not=["iPhone"]).check("我的iPhones很好") == []
    assert Patterns(must_not=["사과"]).check("사과를") == [], "Korean has spaces"
