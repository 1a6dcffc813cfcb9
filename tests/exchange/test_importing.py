"""Importing and exporting from Python: what the commands do, without them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.adapter import CONFIG, WEIGHTS
from softprompt.bases.options import BaseOptions
from softprompt.bases.reading import quiet
from softprompt.errors import (
    BaseModelError,
    ConfigError,
    ContextError,
    FingerprintMismatch,
    LibraryError,
    NameRefused,
    NotFound,
    PromptFileError,
)
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.exchange.importing import import_prompt, import_prompts
from softprompt.library.library import Library
from softprompt.prompts.card import Card
from softprompt.prompts.file import Stored, read_card, write_file
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.form import Form
from tests.commands import Run
from tests.library_data import make_prompt, scored, state_of
from tests.models import save_base, some_prefix, some_prompt


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as library:
        yield library


def test_a_file_goes_out_and_comes_back_with_its_scores(library: Library, tmp_path: Path) -> None:
    data = make_prompt(labels=("yes", "no"), metrics=scored(0.8))
    library.publish(data, base="builtin/tiny")
    done = export_prompt(library, "trec6@1", tmp_path / "out", Format.SOFTPROMPT)
    assert done.version.ref == "trec6@1"
    assert done.path == tmp_path / "out" / "trec6@1.safetensors"
    assert done.path.read_bytes() == data
    assert os.listdir(tmp_path / "out") == ["trec6@1.safetensors"]
    version = import_prompt(library, done.path, tags=["back"])
    assert (version.number, version.digest, version.tags) == (2, done.version.digest, ("back",))
    renamed = import_prompt(library, str(done.path), task="other")
    assert (renamed.ref, renamed.card.metrics) == ("other@1", scored(0.8))


def test_scores_of_another_task_stay_behind(library: Library, tmp_path: Path) -> None:
    """Whatever changes the form: each of its fields, and a task to be like."""
    file = tmp_path / "file"
    file.write_bytes(make_prompt(labels=("yes", "no"), metrics=scored(0.8)))
    library.publish(make_prompt("like", labels=("a", "b"), metric="macro_f1", metrics=scored(0.9)), base="b")
    for change in ({"input": "Say: {text}"}, {"target": " is {label}"}, {"labels": ["ja", "nein"]}, {"like": "like"}):
        card = import_prompt(library, file, task="t", **change).card
        assert card.metrics == {}, change
    assert (card.labels, card.metric) == (("a", "b"), "macro_f1")
    both = import_prompt(library, file, task="t", like="like", labels=("c", "d")).card
    assert (both.labels, both.metric) == (("c", "d"), "macro_f1")
    same = import_prompt(library, file, task="t", labels=("yes", "no"), input="{text}").card
    assert same.metrics == scored(0.8), "nothing that they depend on is changed"


def test_the_threshold_of_a_set_stays_behind_where_its_labels_or_template_are_others(
    library: Library, tmp_path: Path
) -> None:
    """It was found on the scores of those."""
    file, found = tmp_path / "file", {"problem_type": "multi_label_classification", "threshold": 0.9}
    file.write_bytes(make_prompt(labels=("yes", "no"), metric="micro_f1", recipe=found))
    for number, change in enumerate(({"labels": ["ja", "nein"]}, {"labels": ["no", "yes"]}, {"input": "Say: {text}"})):
        card = import_prompt(library, file, task=f"t{number}", **change).card
        assert (card.recipe, Form.of_card(card).threshold) == ({"problem_type": "multi_label_classification"}, 0.5)
    assert Form.of_card(import_prompt(library, file, task="same", labels=("yes", "no")).card).threshold == 0.9


ASKED: dict[str, Any] = {
    "id2label": {"0": "a", "1": "b"}, "fold_labels": True, "output_schema": '{"type": "object"}', "no_answer": "a",
    "messages": "in the chat template", "retrieve": {"query": "{question}", "k": 2},
    "decision": {"type": "choice", "instructions": "Which?", "choices": [{"value": "a"}, {"value": "b"}]},
}  # fmt: skip


def test_all_that_says_how_a_prompt_is_asked_is_taken_over(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(make_prompt(labels=("a", "b"), metrics=scored(0.8), recipe={"seed": 1, "no_answer": "b"}))
    library.publish(make_prompt("like", labels=("a", "b"), recipe=ASKED | {"seed": 2}), base="b")
    card = import_prompt(library, file, task="t", like="like").card
    assert card.recipe == ASKED | {"seed": 1}
    assert card.metrics == {}, "they were of rows that are read otherwise"
    other = import_prompt(library, file, task="t", like="like", labels=("a", "c")).card
    assert {"id2label", "decision"} & other.recipe.keys() == set(), "they are of labels that are gone"
    plain = import_prompt(library, file, task="t", like="like", input="{text}").card
    assert {"messages", "retrieve"} & plain.recipe.keys() == set(), "the template that is given has neither"
    assert import_prompt(library, file, task="t").card.metrics == scored(0.8)


def test_a_template_with_messages_is_a_conversation(library: Library, tmp_path: Path) -> None:
    """As in a task file: what `{messages}` stands for is worded by the chat template of the base."""
    file = tmp_path / "file"
    file.write_bytes(make_prompt(metrics=scored(0.8)))
    talks = import_prompt(library, file, task="t", input="{messages}").card
    assert Form.of_card(talks).converses
    talked = tmp_path / "talked"
    talked.write_bytes(library.read(library.registry.resolve("t@1")))
    assert Form.of_card(import_prompt(library, talked, task="t").card).converses
    assert not Form.of_card(import_prompt(library, talked, task="t", input="{text}").card).converses
    old = tmp_path / "old"  # a column of that name was text like any other
    old.write_bytes(make_prompt(input="{messages}"))
    assert not Form.of_card(import_prompt(library, old, task="t").card).converses


def test_numbers_stay_those_of_their_labels(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "file"
    recipe = {"problem_type": "regression", "id2label": {"1": "bad", "3": "fair", "9": "good"}}
    file.write_bytes(make_prompt(labels=("bad", "fair", "good"), metric="mae", recipe=recipe))
    others = "^labels: .* stand for the numbers 1, 3, 9, in this order, and 'poor', 'so so', 'well' would for 1, 2, 3; give"
    with pytest.raises(ConfigError, match=others):
        import_prompt(library, file, labels=("poor", "so so", "well"))
    assert import_prompt(library, file, labels=("1", "3", "9")).card.labels == ("1", "3", "9")
    assert import_prompt(library, file, input="Say: {text}").card.recipe == recipe
    library.publish(make_prompt("free", metric="exact_match"), base="builtin/tiny")
    with pytest.raises(
        ConfigError, match=r"^like: .* chooses among labels, and would be one that says the number itself \("
    ):
        import_prompt(library, file, like="free")
    file.write_bytes(make_prompt(metric="mae", recipe={"problem_type": "regression", "range": [1, 9]}))
    with pytest.raises(
        ConfigError, match=r"^labels: .* says the number itself, and would be one that chooses among labels \("
    ):
        import_prompt(library, file, labels=("1", "2"))


def test_what_could_never_answer_is_refused(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(make_prompt())
    (tmp_path / "folder").mkdir()
    for attempt, error in (
        (lambda: import_prompt(library, file, labels=["yes"]), ConfigError),
        (lambda: import_prompt(library, file, task="a b"), NameRefused),
        (lambda: import_prompt(library, file, like="none"), NotFound),
        (lambda: import_prompt(library, tmp_path / "none"), PromptFileError),
        (lambda: import_prompt(library, tmp_path / "folder"), ConfigError),
        (lambda: import_prompt(library, tmp_path / "folder", task="t"), PromptFileError),
        (lambda: import_prompt(library, file, base="builtin/tiny"), FingerprintMismatch),
        (lambda: export_prompt(library, "none", tmp_path / "out"), NotFound),
    ):
        with pytest.raises(error):
            attempt()
    assert library.registry.tasks() == []


@pytest.mark.parametrize("form", [Format.PEFT, Format.SOFTPROMPT])
def test_a_folder_that_cannot_be_written_is_told(library: Library, tmp_path: Path, form: Format) -> None:
    prompt = some_prompt_on(tmp_path / "base")
    library.publish(prompt.to_bytes(), base=str(tmp_path / "base"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(LibraryError, match="choose another folder"):
        export_prompt(library, "colours", tmp_path / "file", form)


def test_a_peft_folder_goes_out_whole_and_comes_back(library: Library, tmp_path: Path) -> None:
    prompt = some_prompt_on(tmp_path / "base")
    published = library.publish(prompt.to_bytes(), base=str(tmp_path / "base"))
    for _ in range(2):  # over what is there, too
        done = export_prompt(library, "colours", tmp_path / "peft")
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors", "softprompt_card.json"]
    assert sorted(os.listdir(done.path)) == files
    back = import_prompt(library, done.path, task="colours")
    assert (back.number, back.digest, back.base) == (2, published.digest, str(tmp_path / "base"))
    changed = import_prompt(library, done.path, task="colours", labels=["ja", "nein"])
    assert (changed.card.labels, changed.card.metrics) == (("ja", "nein"), {})
    assert read_card(library.read(changed)) == changed.card


def test_where_inputs_lie_goes_with_a_peft_folder(library: Library, tmp_path: Path) -> None:
    """`auto` chooses a task by it; one that has none leaves none of an earlier export behind."""
    without = some_prompt_on(tmp_path / "base")
    centroid_D = torch.linspace(-0.5, 0.5, without.card.token_dim)
    published = library.publish(replace(without, centroid_D=centroid_D).to_bytes(), base=str(tmp_path / "base"))
    done = export_prompt(library, "colours", tmp_path / "peft")
    assert import_prompt(library, done.path, task="colours").digest == published.digest
    (done.path / "softprompt_centroid.safetensors").write_bytes(b"x")
    with pytest.raises(PromptFileError, match=r"softprompt_centroid\.safetensors' cannot be read"):
        import_prompt(library, done.path, task="colours")
    last = library.publish(without.to_bytes(), base=str(tmp_path / "base"))
    assert "softprompt_centroid.safetensors" not in os.listdir(export_prompt(library, last.ref, done.path).path)
    assert import_prompt(library, done.path, task="colours").digest == last.digest


def some_prompt_on(folder: Path) -> SoftPrompt:
    base = FrozenBase.load(str(save_base(folder)))
    return some_prompt(base, "colours", labels=("red", "blue"), metrics=scored(0.5))


# Checked as trained ones are


def adapter(folder: Path, base: Path, rows: int = 4, **config: Any) -> Path:
    """An adapter of elsewhere."""
    folder.mkdir(parents=True)
    fields = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base)}
    (folder / CONFIG).write_text(json.dumps({**fields, **config}))
    safetensors.torch.save_file({"prompt_embeddings": torch.rand(rows, 32)}, folder / WEIGHTS)
    return folder


def test_a_prompt_without_labels_is_judged_as_what_generates(library: Library, tmp_path: Path, base_folder: Path) -> None:
    folder = adapter(tmp_path / "a", base_folder)
    assert import_prompt(library, folder, task="tell").card.metric == "exact_match"
    assert import_prompt(library, folder, task="kind", labels=["yes", "no"]).card.metric == "accuracy"


def test_a_card_has_no_path_of_the_machine_where_it_was_tuned(library: Library, tmp_path: Path, base_folder: Path) -> None:
    for number, (named, told) in enumerate(
        (("/home/ann/llama", "llama"), ("~/small.gguf", "small.gguf"), ("org/llama", "org/llama"))
    ):
        folder, warned = adapter(tmp_path / str(number), base_folder, base_model_name_or_path=named), []
        version = import_prompt(library, folder, task="t", base=str(base_folder), warn=warned.append)
        assert version.card.recipe["named_base"] == told
        assert repr(named) in warned[0]


def test_a_prompt_that_leaves_no_room_for_an_input_is_refused(library: Library, tmp_path: Path, base_folder: Path) -> None:
    before = state_of(library.home)
    for rows, more in ((95, {}), (63, {"input": "Is this a long or a short template, and is it {text}?", "labels": None})):
        with pytest.raises(ContextError, match="a shorter"):
            import_prompt(library, adapter(tmp_path / str(rows), base_folder, rows), task="t", **more)  # type: ignore[arg-type]
    assert state_of(library.home) == before
    fits = adapter(tmp_path / "fits", base_folder, 90)
    assert import_prompt(library, fits, task="t", labels=("yes", "no")).number == 1


def floats(*values: float, shape: tuple[int, ...] = (2, 4)) -> Stored:
    return Stored("F32", shape, torch.tensor(values).repeat(8 // len(values)).numpy().tobytes())


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (floats(float("nan"), 1.0), "not finite"),
        (floats(float("inf")), "not finite"),
        (floats(1.0, shape=(4, 2)), "the card says 2 x 4 and the tensor is 4 x 2"),
        (Stored("I32", (2, 4), bytes(32)), "the card says float32 and the file holds"),
        (Stored("F32", (2, 4), bytes(28)), "28 bytes for a tensor"),
    ],
)
def test_a_file_of_ours_with_numbers_that_no_training_writes_is_refused(
    library: Library, tmp_path: Path, stored: Stored, message: str
) -> None:
    """Its checksum is right: it was made so."""
    card = Card(task="t", base="builtin/tiny", fingerprint="f" * 32, num_virtual_tokens=2, token_dim=4)
    (tmp_path / "file").write_bytes(write_file(card, {"prompt_embeddings": stored}))
    before = state_of(library.home)
    with pytest.raises(PromptFileError, match=message):
        import_prompt(library, tmp_path / "file")
    assert state_of(library.home) == before


def test_the_revision_of_an_adapter_is_the_one_that_is_loaded(
    library: Library, tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(options: BaseOptions) -> FrozenBase:
        asked.append(options.address)
        raise ContextError("enough")

    monkeypatch.setattr(FrozenBase, "load", load)
    folder = adapter(tmp_path / "a", Path("org/model"), revision="v1")
    for base, address in ((None, "org/model@v1"), ("org/model", "org/model@v1"), ("org/model@v2", "org/model@v2")):
        with pytest.raises(ContextError, match="enough"):
            import_prompt(library, folder, task="t", base=base)
        assert asked.pop() == address
    with pytest.raises(ContextError, match="enough"):
        import_prompt(library, folder, task="t", base=str(base_folder))
    assert asked.pop() == str(base_folder)


def test_what_nothing_proves_is_told(library: Library, tmp_path: Path, base_folder: Path) -> None:
    told: list[str] = []
    version = import_prompt(
        library, adapter(tmp_path / "a", Path("org/model")), task="t", base=str(base_folder), warn=told.append
    )
    assert version.card.recipe == {"imported": "peft", "named_base": "org/model"}
    assert len(told) == 1
    assert "names 'org/model' as its base" in told[0]


# Several at once


def test_one_that_fails_leaves_the_others_and_a_base_is_loaded_once(
    library: Library, tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    real = FrozenBase.load

    def load(options: BaseOptions) -> FrozenBase:
        loads.append(options.address)
        return real(options)

    monkeypatch.setattr(FrozenBase, "load", load)
    good = [adapter(tmp_path / name, base_folder) for name in ("red", "blue")]
    bad = adapter(tmp_path / "bad", base_folder, peft_type="LORA")
    (tmp_path / "file").write_bytes(make_prompt("own"))
    outcomes = list(import_prompts(library, [good[0], bad, tmp_path / "file", good[1], tmp_path / "none"]))
    assert [outcome.version and outcome.version.ref for outcome in outcomes] == ["red@1", None, "own@1", "blue@1", None]
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None),
        PromptFileError,
        type(None),
        type(None),
        PromptFileError,
    ]
    assert loads == [str(base_folder)]
    assert sorted(entry.task for entry in library.registry.tasks()) == ["blue", "own", "red"]


def test_several_become_versions_of_one_task_or_each_of_its_own(library: Library, tmp_path: Path, base_folder: Path) -> None:
    folders = [adapter(tmp_path / name, base_folder) for name in ("one", "two", "a b")]
    for tasks, refs in (
        (["t"], ["t@1", "t@2", "t@3"]),
        (["x", "y", "x"], ["x@1", "y@1", "x@2"]),
        ([], ["one@1", "two@1", None]),  # which no task may be called
    ):
        outcomes = list(import_prompts(library, folders, tasks=tasks))
        assert [outcome.version and outcome.version.ref for outcome in outcomes] == refs
    assert isinstance(outcomes[2].error, NameRefused)
    twins = [adapter(tmp_path / name / "checkpoint", base_folder) for name in ("x", "y")]
    before = state_of(library.home)
    for sources, tasks, message in (
        (twins, [], "would both become the task 'checkpoint'"),
        (folders, ["x", "y"], "2 tasks for 3 prompts"),
    ):
        with pytest.raises(ConfigError, match=message):
            import_prompts(library, sources, tasks=tasks)
    assert state_of(library.home) == before


def test_the_command_tells_what_became_of_each(run: Run, home: Path, tmp_path: Path, base_folder: Path) -> None:
    folders = [adapter(tmp_path / name, base_folder) for name in ("red", "blue")]
    twins = [adapter(tmp_path / name / "checkpoint", base_folder) for name in ("x", "y")]
    assert "would both become the task" in run("import", *twins, "--json").refused()
    assert "2 tasks for 3" in run("import", *folders, twins[0], "--task", "a", "--task", "b").refused()
    assert not home.exists()
    assert run("import", folders[0], "--task", "red", "--json").rows[0]["error"] is None
    bad = adapter(tmp_path / "bad", base_folder, peft_type="LORA")
    done = run("import", *folders, bad, "--json")
    assert done.code == 1
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["task"], row["version"]) for row in rows] == [("red", 2), ("blue", 1), ("bad", None)]
    assert [row["source"] for row in rows] == [str(folder) for folder in (*folders, bad)]
    assert "is LORA" in rows[2]["error"]
    assert "1 of 3 prompts were refused" in done.err
    shown = run("import", *folders, bad)
    assert f"{bad} is refused: the adapter in '{bad}' is LORA" in shown.err
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "is LORA" in run("import", bad, "--task", "bad").refused()


def test_no_prefix_gets_a_place_in_its_input(library: Library, base_folder: Path, tmp_path: Path) -> None:
    """A task file is refused so; a prompt taken in could never answer."""
    base = FrozenBase.load(str(base_folder))
    placed = some_prompt(base, "placed", input="a {soft_prompt} {text}", labels=("red", "blue"))
    library.publish(placed.to_bytes(), base=base.address)
    file = some_prefix(base, "prefix", labels=("red", "blue")).save(tmp_path / "prefix")
    for change in ({"input": "a {soft_prompt} {text}"}, {"like": "placed"}):
        with pytest.raises(ConfigError, match=r"'prefix' is a prefix, which stands before everything .* take that out"):
            import_prompt(library, file, **change)
    assert (
        import_prompt(library, some_prompt(base, "soft").save(tmp_path / "soft"), like="placed").card.input
        == placed.card.input
    )


def test_other_labels_leave_a_schema_and_what_no_answer_was_behind(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(make_prompt(metric="exact_match", recipe={"output_schema": '{"type":"object"}', "no_answer": "none"}))
    assert import_prompt(library, file, labels=["a", "b"]).card.recipe == {}
    assert import_prompt(library, file, labels=["a", "none"]).card.recipe == {"no_answer": "none"}
    assert import_prompt(library, file, input="Say: {text}").card.recipe.keys() == {"output_schema", "no_answer"}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_what_is_said_of_a_base_that_is_not_named_is_to_be_true_of_it(
    library: Library, base_folder: Path, tmp_path: Path
) -> None:
    """The options of an adapter, a revision and code without a base are of the one that the file names."""
    base, adapter = str(base_folder), _adapter(base_folder, tmp_path / "adapter")
    adapted = FrozenBase.load(base, adapter=str(adapter))
    plain = some_prompt(FrozenBase.load(base), "plain")
    library.publish(plain.to_bytes(), base=base)
    library.publish(some_prompt(adapted, "adapted").to_bytes(), base=base)
    one, other = (library.read(library.registry.resolve(task)) for task in ("plain", "adapted"))
    (tmp_path / "plain").write_bytes(one)
    (tmp_path / "adapted").write_bytes(other)
    options = BaseOptions(adapter=str(adapter))
    assert import_prompt(library, tmp_path / "adapted", base=options).base == base
    with pytest.raises(FingerprintMismatch, match=r"plain' was tuned on tiny-llama .* with the adapter"):
        import_prompt(library, tmp_path / "plain", base=options)
    for wrong in (BaseOptions(adapter=str(tmp_path / "none")), BaseOptions(adapter=str(base_folder))):
        with pytest.raises(BaseModelError):
            import_prompt(library, tmp_path / "adapted", base=wrong)
    assert import_prompt(library, tmp_path / "plain", base=BaseOptions(trust_remote_code=True)).base == base


def _adapter(base: Path, folder: Path) -> Path:
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("import", "nothing"), ("import", "bad"), ("import", "bad", "--like", "other"), ("import", "forged"),
        ("import", "good", "--input", "none"), ("import", "folder", "--task", "t"), ("import", "good", "--tag", "a b"),
        ("import", "good", "--base", "nowhere"), ("import", "bad", "nothing"), ("unbundle", "nothing"), ("unbundle", "bad"),
        ("unbundle", "good"), ("pull", "me/thing"), ("pull", "nonsense:"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_no_empty_library(
    words: tuple[str, ...], run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").write_bytes(b"no prompt file")
    (tmp_path / "good").write_bytes(make_prompt())
    (tmp_path / "forged").write_bytes(make_prompt("no/name"))
    (tmp_path / "folder").mkdir()
    done = run(*words)
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    assert not home.exists()


def test_the_first_of_several_that_is_taken_makes_the_library(run: Run, home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no prompt file")
    for seed, name in enumerate(("one", "two")):
        (tmp_path / name).write_bytes(make_prompt(name, seed=seed))
    done = run("import", tmp_path / "bad", tmp_path / "one", tmp_path / "two")
    assert (done.code, [row["task"] for row in run("list", "--json").rows]) == (1, ["one", "two"])
    assert home.is_dir()
