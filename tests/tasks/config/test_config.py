"""Task files: what is accepted as it stands, and what is told of each fault."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError
from softprompt.evaluation.metrics import measure
from softprompt.prompts.card import is_best
from softprompt.tasks.answers.kinds import OF_NUMBERS
from softprompt.tasks.config.config import OF_LABELS, MetricName, ObjectiveName, TaskConfig, parse_config, read_config
from softprompt.tasks.task import Task
from softprompt.training.objectives import OBJECTIVES

PEFT_STYLE = """\
task_type: CAUSAL_LM
num_virtual_tokens: 20
prompt_tuning_init: TEXT
prompt_tuning_init_text: "Classify the following text:"
tokenizer_name_or_path: google/flan-t5-large
learning_rate: 0.03
num_train_epochs: 5
per_device_train_batch_size: 8
warmup_ratio: 0.06
weight_decay: 0.01
lr_scheduler_type: linear
serving:
  base_model_device: cuda:0
  prompt_cache_size: 100
  prompt_storage: s3://ml-prompts/production/
  swap_latency_budget_ms: 0.1
"""

WHOLE_TASK = """\
task: trec6
base: builtin/tiny              # or a Hugging Face id, or a folder
data: {train: trec6/train.jsonl, validation: 0.1, test: trec6/test.jsonl}
input: "Question: {text}\\nType:"
target: " {label}"
labels: [abbreviation, entity, description, person, location, number]
metric: accuracy
num_virtual_tokens: 20
prompt_tuning_init: LABELS
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def refusal(file: Path, text: str | bytes) -> str:
    """What is said of a task file that must be refused. It always names the file."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    message = str(caught.value)
    assert str(file) in message
    return message.replace(str(file), "FILE")


def test_a_config_in_the_words_of_peft_parses_as_it_stands(file: Path) -> None:
    file.write_text(PEFT_STYLE)
    config = read_config(file)
    assert config.task == "mine"
    assert config.base_options.source == "google/flan-t5-large"
    assert (config.task_type, config.num_virtual_tokens, config.initializer) == ("CAUSAL_LM", 20, "TEXT")
    assert config.prompt_tuning_init_text == "Classify the following text:"
    assert (config.learning_rate, config.num_train_epochs, config.per_device_train_batch_size) == (0.03, 5, 8)
    assert (config.warmup_ratio, config.weight_decay, config.lr_scheduler_type) == (0.06, 0.01, "linear")
    assert config.serving is not None
    assert config.serving.model_dump() == {
        "base_model_device": "cuda:0",
        "prompt_cache_size": 100,
        "prompt_storage": "s3://ml-prompts/production/",
        "swap_latency_budget_ms": 0.1,
        "chat_input": None,
    }


def test_a_whole_task_parses_as_it_stands(file: Path) -> None:
    file.write_text(WHOLE_TASK)
    config = read_config(file)
    assert config.task == "trec6"
    assert config.base_options.source == "builtin/tiny"
    assert config.data is not None
    assert (config.data.train, config.data.validation, config.data.test) == (
        "trec6/train.jsonl", 0.1, "trec6/test.jsonl",
    )  # fmt: skip
    assert config.input == "Question: {text}\nType:"
    assert config.labels == ("abbreviation", "entity", "description", "person", "location", "number")
    assert (config.metric_name, config.initializer, config.objective_name) == (
        "accuracy", "LABELS", "language_modelling",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("num_virtual_token: 3", ["'num_virtual_token'", "'num_virtual_tokens'"]),
        ("lerning_rate: 0.1", ["'lerning_rate'", "'learning_rate'"]),
        ("data: {train: a.csv, validaton: 0.2}", ["'data.validaton'", "'validation'"]),
        ("serving: {prompt_cash_size: 2}", ["'serving.prompt_cash_size'", "'prompt_cache_size'"]),
        ("zzzzqqq: 1", ["'zzzzqqq'", "known:"]),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_name(file: Path, line: str, expected: list[str]) -> None:
    message = refusal(file, line)
    assert "unknown key" in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("num_virtual_tokens: twenty", "num_virtual_tokens", "'twenty'"),
        ("num_virtual_tokens: 2.5", "num_virtual_tokens", "2.5"),
        ("num_virtual_tokens: 0", "num_virtual_tokens", "0"),
        ("num_virtual_tokens: true", "num_virtual_tokens", "True"),
        ("num_virtual_tokens: [20]", "num_virtual_tokens", "[20]"),
        ("learning_rate: fast", "learning_rate", "'fast'"),
        ("learning_rate: yes", "learning_rate", "True"),
        ("learning_rate: 0", "learning_rate", "0"),
        ("learning_rate: -0.1", "learning_rate", "-0.1"),
        ("learning_rate: .nan", "learning_rate", "nan"),
        ("num_train_epochs: .inf", "num_train_epochs", "inf"),
        ("max_grad_norm: .inf", "max_grad_norm", "inf"),
        ("weight_decay: .inf", "weight_decay", "inf"),
        ("max_steps: 0", "max_steps", "0"),
        ("warmup_ratio: 1", "warmup_ratio", "1"),
        ("lr_scheduler_type: polynomial", "lr_scheduler_type", "'polynomial'"),
        ("optim: sgd", "optim", "'sgd'"),
        ("prompt_tuning_init: RANDON", "prompt_tuning_init", "'RANDON'"),
        ("task_type: CAUSAL", "task_type", "'CAUSAL'"),
        ("peft_type: LORA", "peft_type", "'LORA'"),
        ("labels: yes-or-no", "labels", "'yes-or-no'"),
        ("labels: [a, null]", "labels", "None"),
        ("input: 3", "input", "3"),
        ("data: {train: a.csv, validation: 1.5}", "data.validation", "1.5"),
        ("data: {train: a.csv, validation: 0}", "data.validation", "0"),
        ("data: {train: a.csv, test: true}", "data.test", "True"),
        ("data: {train: 3}", "data.train", "3"),
        ("data: {validation: 0.1}", "data.train", "missing"),
        ("serving: {prompt_cache_size: 0}", "serving.prompt_cache_size", "0"),
        ("seed: 100000000000000000000", "seed", "100000000000000000000"),
        ('input: "\\ud800 {text}"', "input", "surrogate"),
        ('labels: [a, "b\\udfff"]', "labels", "surrogate"),
        ("serving: fast", "serving", "'fast'"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_value(file: Path, line: str, key: str, value: str) -> None:
    message = refusal(file, line)
    assert f"{key}" in message
    assert value in message


def test_every_fault_is_told_and_numbered_on_one_line(file: Path) -> None:
    message = refusal(file, "num_virtual_tokens: x\nlearning_rate: y\nlables: [a, b]\n")
    assert message.startswith("FILE has 3 faults: (1) ")
    assert "input should be a valid integer; the file says 'x'" in message
    for part in ("(1) num_virtual_tokens: ", " (2) learning_rate: ", " (3) unknown key 'lables'; did you mean 'labels'?"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("seed: 1\nbase: x\nseed: 2\n", 3, "'seed'"),
        ("data: {train: a.csv, train: b.csv}\n", 1, "'train'"),
        ("serving:\n  prompt_cache_size: 2\n  prompt_cache_size: 3\n", 3, "'prompt_cache_size'"),
    ],
)
def test_a_key_given_twice_is_told_with_its_line(file: Path, text: str, line: int, key: str) -> None:
    message = refusal(file, text)
    assert f"line {line}" in message
    assert key in message
    assert "twice" in message


@pytest.mark.parametrize(
    "words",
    [
        ["yes", "no"], ["on", "off"], ["true", "false"], ["True", "False"], ["01", "1", "1.0", "1e3", "0x1", "1_0", "12:30"],
        ["2024-01-31", "2024-13-45"], ["null", "~"],
    ],
)  # fmt: skip
def test_labels_are_the_words_that_are_written(file: Path, words: list[str]) -> None:
    if "~" in words:
        assert "labels.0: input should be a valid string" in refusal(file, f"labels: [{', '.join(words)}]")
        return
    file.write_text(f"labels: [{', '.join(words)}]")
    assert read_config(file).labels == tuple(words)
    file.write_text("labels:\n" + "".join(f"- {word}\n" for word in words))
    assert read_config(file).labels == tuple(words)
    file.write_text("labels: [" + ", ".join(f"'{word}'" for word in words) + "]")
    assert read_config(file).labels == tuple(words)


def test_labels_from_python_are_the_texts_of_their_values() -> None:
    assert parse_config({"labels": [True, False, 1, 2.5, "yes"]}).labels == ("true", "false", "1", "2.5", "yes")


def test_language_modelling_is_read_in_both_spellings_and_kept_in_one(file: Path) -> None:
    for written in ("language_modelling", "language_modeling"):
        file.write_text(f"objective: {written}")
        config = read_config(file)
        assert config.objective_name == config.recipe()["objective"] == "language_modelling"


def test_the_base_is_named_by_options(file: Path) -> None:
    file.write_text("base: own/tiny@v1\nbase_adapter: lora\ntrust_remote_code: true\n")
    expected = BaseOptions(source="own/tiny@v1", adapter="lora", trust_remote_code=True)
    assert read_config(file).base_options == Task.load(file).base_options == expected
    for name in ("lora", "own"):
        (file.parent / name).mkdir()
    (file.parent / "own" / "tiny@v1").mkdir()
    assert Task.load(file).base_options == BaseOptions(
        source=str(file.parent / "own" / "tiny@v1"), adapter=str(file.parent / "lora"), trust_remote_code=True
    )
    file.write_text("trust_remote_code: 1.5\n")
    with pytest.raises(ConfigError, match="trust_remote_code: input should be a valid boolean"):
        read_config(file)


@pytest.mark.parametrize("written", ["3e-2", "3.0e-2", "0.03", "'0.03'", ".03"])
def test_a_number_is_a_number_however_it_is_written(file: Path, written: str) -> None:
    file.write_text(f"learning_rate: {written}")
    assert read_config(file).learning_rate == 0.03


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2", "not valid YAML at line"),
        ("a: b: c", "not valid YAML at line 1"),
        ("\tseed: 1", "not valid YAML at line 1"),
        ("- a\n- b\n", "holds a list;"),
        ("just words", "holds a text;"),
        ("", "holds nothing;"),
        ("? [a, b]\n: 1\n", "plain name"),
        ("? !!set {a}\n: 1\n", "plain name"),
        ("3: x\n", "3"),
        (b"task: caf\xe9\n", "not UTF-8"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_task_file_is_told(file: Path, text: str | bytes, expected: str) -> None:
    assert expected in refusal(file, text)


@pytest.mark.parametrize(
    ("value", "shown"), [("2024-13-45", "2024-13-45"), ("!!int abc", "abc"), ("1" * 5000, "1" * 40), ("!!float x", "x")]
)
def test_a_value_that_yaml_takes_for_what_it_is_not_is_told_with_its_line(file: Path, value: str, shown: str) -> None:
    for text in (f"seed: 1\ntask: {value}\n", f"seed: 1\nother: [a, {value}]\n", f"seed: 1\n? {value}\n: 1\n"):
        assert f"FILE: line 2: {shown!r} cannot be read" in refusal(file, text)


def test_brackets_without_end_are_told(file: Path) -> None:
    assert "too deep" in refusal(file, "labels: " + "[" * 3000)


@pytest.mark.parametrize("name", ["rows.csv", "rows.TSV", "rows.jsonl", "rows.parquet", "rows.xlsx", "r.csv.gz"])
def test_a_table_given_for_a_task_file_is_told_with_the_command_that_makes_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"text,label\nred,yes\n\xff")
    with pytest.raises(ConfigError, match=rf"is a table of rows and no task file; `softprompt init .*{name}`"):
        read_config(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / f"none-{name}")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            read_config(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"labels": ["a"]}, "at least two"),
        ({"labels": []}, "at least two"),
        ({"labels": ["a", "b", "a"]}, "'a' is listed more than once"),
        ({"labels": [1, "1"]}, "'1' is listed more than once"),
        ({"labels": ["a", "  "]}, "empty"),
        ({"metric": "accuracy"}, "needs `labels`"),
        ({"metric": "f1"}, "needs `labels`"),
        ({"objective": "label_scoring"}, "needs `labels`"),
        ({"prompt_tuning_init": "LABELS"}, "needs `labels`"),
        ({"prompt_tuning_init": "TEXT"}, "needs prompt_tuning_init_text"),
        (
            {"encoder_reparameterization_type": "LOW_RANK", "encoder_hidden_size": 20, "num_virtual_tokens": 20},
            "encoder_hidden_size: rank 20 of 20 vectors is no low rank; give one below num_virtual_tokens",
        ),
        ({"encoder_reparameterization_type": "LOW_RANK", "num_virtual_tokens": 1}, "rank 1 of 1 vectors is no low rank"),
        ({"prompt_tuning_init": "PROMPT"}, "needs prompt_tuning_init_prompt"),
    ],
)
def test_what_does_not_go_together_is_told(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse_config(fields)


@pytest.mark.parametrize(
    ("fields", "initializer"),
    [
        ({}, "SAMPLE_VOCAB"),
        ({"labels": ["a", "b"]}, "LABELS"),
        ({"labels": ["a", "b"], "prompt_tuning_init_text": "x"}, "TEXT"),
        ({"prompt_tuning_init_prompt": "trec6@3"}, "PROMPT"),
        ({"labels": ["a", "b"], "prompt_tuning_init": "RANDOM"}, "RANDOM"),
    ],
)
def test_the_initialiser_follows_from_what_is_given(fields: dict[str, Any], initializer: str) -> None:
    assert parse_config(fields).initializer == initializer


def test_every_metric_and_objective_that_a_file_may_name_is_there() -> None:
    for metric in get_args(MetricName):
        texts = ["1", "2"] if metric in OF_NUMBERS else ["a", "b"]
        assert is_best(metric, measure(metric, texts, texts))
    assert sorted(OBJECTIVES) == sorted(get_args(ObjectiveName))
    assert set(OF_LABELS) <= {*get_args(MetricName), *get_args(ObjectiveName)}


def test_shorthands_mean_the_same_as_the_long_forms() -> None:
    assert parse_config({"data": "a.csv"}) == parse_config({"data": {"train": "a.csv"}})
    assert parse_config({"prompt_tuning_init_prompt": "a@1"}) == parse_config({"prompt_tuning_init_prompt": ["a@1"]})
    assert parse_config({"optim": "adamw_torch"}) == parse_config({"optim": "adamw"})


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TaskConfig().seed = 3  # type: ignore[misc]


@given(st.dictionaries(st.text(max_size=12), st.none() | st.booleans() | st.integers() | st.text(max_size=5)))
def test_whatever_a_file_holds_the_answer_is_a_config_or_our_error(raw: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_config(raw), TaskConfig)


@given(st.sampled_from(sorted(TaskConfig.model_fields)), st.booleans() | st.floats() | st.lists(st.integers(), max_size=2))
def test_a_recipe_is_plain_json_of_finite_numbers(key: str, value: Any) -> None:
    import json

    try:
        config = parse_config({key: value})
    except ConfigError:
        return
    json.dumps(config.recipe(), allow_nan=False)


def test_a_message_repeats_no_more_than_the_beginning_of_a_wrong_value() -> None:
    with pytest.raises(ConfigError, match=r"the file says \[\{'text': 'a'\}.*\.\.\.$") as refused:
        parse_config({"data": [{"text": "a"}] * 1000})
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("key", ["input", "target", "instruction"])
def test_a_text_with_braces_that_yaml_reads_as_a_mapping_is_called_so(key: str) -> None:
    with pytest.raises(ConfigError, match=r"double quotes of its own, .* the file says \{'text': None\}"):
        parse_config({"data": "rows.csv", key: {"text": None}})


@pytest.mark.parametrize(
    ("fields", "rank"),
    [
        ({}, 8),
        ({"num_virtual_tokens": 6}, 3),
        ({"encoder_hidden_size": 64, "num_virtual_tokens": 100}, 64),
        ({"encoder_hidden_size": 2}, 2),
    ],
)
def test_a_low_rank_has_a_default_of_its_own(fields: dict[str, Any], rank: int) -> None:
    assert parse_config({"task": "t", "encoder_reparameterization_type": "LOW_RANK", **fields}).hidden_size == rank
    assert parse_config({"task": "t", "encoder_reparameterization_type": "LSTM"}).hidden_size == 64
