"""Keys of other trainers are answered with ours, and every answer names a key that there is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import ConfigError
from softprompt.tasks.config import foreign
from softprompt.tasks.config.blocks import DataConfig
from softprompt.tasks.config.config import TaskConfig, parse_config


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("lr", "here it is `learning_rate`"),
        ("epochs", "here it is `num_train_epochs`"),
        ("batch_size", "here it is `per_device_train_batch_size`"),
        ("evaluation_strategy", "say how often with eval_per_epoch"),
        ("save_steps", "checkpoints are written by themselves"),
        ("load_best_model_at_end", "always the one that is kept"),
        ("dataset_text_field", "here it is `input`"),
        ("max_seq_length", "is cut and counted by itself"),
        ("model_name_or_path", "here it is `base`"),
        ("validation", "here it is `data.validation`"),
        ("bf16", "said where the base is loaded"),
        ("report_to", "`softprompt train --report-to tensorboard` names one"),
        ("push_to_hub", "`softprompt push` puts one on the hub"),
        ("Learning-Rate", "did you mean 'learning_rate'?"),
        ("lables", "did you mean 'labels'?"),
    ],
)
def test_a_key_from_elsewhere_names_what_stands_for_it(key: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        parse_config({"task": "t", key: 1})
    assert f"unknown key {key!r}" in str(caught.value)


def test_inside_data_too() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'data.eval_file'; here it is `data.validation`"):
        parse_config({"task": "t", "data": {"train": "a.csv", "eval_file": "b.csv"}})


def test_every_answer_is_a_key_and_no_key_of_ours_is_foreign() -> None:
    for meant in [*foreign._MEANS.values(), *foreign._MEANS_IN_DATA.values()]:
        block, _, name = meant.rpartition(".")
        assert name in (DataConfig if block else TaskConfig).model_fields, meant
    assert not set(foreign._MEANS) & set(TaskConfig.model_fields)
    assert not set(foreign._WHY_NONE) & set(TaskConfig.model_fields)
    assert not set(foreign._MEANS) & set(foreign._WHY_NONE), "one answer for each"


@given(st.text(min_size=1, max_size=30))
def test_any_name_gets_an_answer(name: str) -> None:
    assert foreign.unknown_key(name, TaskConfig.model_fields).startswith("; ")
