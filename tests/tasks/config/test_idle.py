"""Keys of a task file that have no say beside its others are told; a key that has one is not."""

from __future__ import annotations

from typing import Any

import pytest

from softprompt.tasks.config.config import OF_PATTERNS, parse_config
from softprompt.tasks.config.idle import idle_keys

LABELS = {"task": "t", "data": "rows.csv", "labels": ["a", "b"]}
NETWORK = {"encoder_reparameterization_type": "MLP"}


@pytest.mark.parametrize(
    ("key", "value", "say"),
    [
        ("prompt_tuning_init_text", "red", {"prompt_tuning_init": "TEXT"}),
        ("prompt_tuning_init_prompt", "other@1", {"prompt_tuning_init": "PROMPT"}),
        ("encoder_hidden_size", 3, NETWORK),
        ("unwanted", "bad", {"objective": "unlikelihood", "unwanted": "bad"}),
        ("unwanted_weight", 2.0, {"objective": "unlikelihood", "unwanted": "bad"}),
        ("rejected", "worse", {"objective": "preference", "labels": None}),
        ("preference_beta", 0.5, {"objective": "preference", "labels": None}),
        ("adam_beta2", 0.9, {"optim": "adamw"}),
        ("warmup_ratio", 0.2, {"lr_scheduler_type": "constant_with_warmup"}),
        ("warmup_steps", 5, {"lr_scheduler_type": "linear"}),
        ("num_train_epochs", 2.0, {"max_steps": None}),
        ("tokenizer_name_or_path", "there", {"base": None}),
    ],
)
def test_a_key_is_told_where_nothing_reads_it_and_only_there(key: str, value: Any, say: dict[str, Any]) -> None:
    silent = {"prompt_tuning_init": "RANDOM", "optim": "adafactor", "base": "here", "max_steps": 5}
    silent |= {"lr_scheduler_type": "constant"} if key.startswith("warmup") else {}
    (told,) = idle_keys(parse_config({**LABELS, **silent, key: value}))
    assert told.startswith(f"{key} has no effect here: only ")
    assert list(idle_keys(parse_config({**LABELS, key: value, **say}))) == []


def test_of_two_ways_to_say_one_thing_the_one_that_loses_is_told() -> None:
    (told,) = idle_keys(parse_config({**LABELS, "warmup_ratio": 0.2, "warmup_steps": 5}))
    assert told.startswith("warmup_ratio has no effect here: only a file without `warmup_steps`")
    both = {"warmup_ratio": 0.2, "warmup_steps": 5, "lr_scheduler_type": "constant"}
    (told,) = idle_keys(parse_config({**LABELS, **both}))  # each key once
    assert told.startswith("warmup_ratio and warmup_steps have no effect here: only a schedule that warms up")


def test_keys_of_blocks_are_told_too_and_defaults_never() -> None:
    (told,) = idle_keys(parse_config({**LABELS, "data": {"train": "rows.csv", "name": "en"}}))
    assert told.startswith("data.name has no effect here: only a `data.dataset`")
    (told,) = idle_keys(parse_config({**LABELS, "retrieve": {"function": "find.py:find", "words": 50, "overlap": 5}}))
    assert told.startswith("retrieve.words and retrieve.overlap have no effect here: only a `retrieve.folder`")
    written = parse_config({**LABELS, "optim": "adafactor"}).model_dump(exclude_none=True, exclude=set(OF_PATTERNS))
    assert list(idle_keys(parse_config(written))) == []
