"""Bases that answer through a head, from a task to answers: trained, judged, compared, served, combined, and exchanged."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import openai
import peft
import pytest
import torch
import transformers
from typer.testing import CliRunner

import softprompt
from softprompt.bases.base import FrozenBase
from softprompt.cli.app import app
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import ScoreJob, Vectors
from softprompt.errors import BaseModelError, ConfigError, EngineError, PromptFileError
from softprompt.exchange.importing import import_prompt
from softprompt.exchange.peft import load_peft, save_peft
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import stack_prompts
from softprompt.prompts.card import Card
from softprompt.prompts.file import read_file, write_file
from softprompt.prompts.prompt import BIAS, WEIGHT, Classifier, SoftPrompt
from softprompt.serving.offline import Service
from softprompt.tasks.task import Task
from tests.http_server import serving
from tests.models import make_headed, make_masked

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of inputs that splits share, for rows are few
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
]

WORDS = ["red", "green", "blue", "apple", "stone", "river"]
ROWS = [{"text": f"{word} {other}", "label": word, "kind": other} for word in WORDS for other in WORDS]
RECIPE: dict[str, Any] = {"num_virtual_tokens": 5, "max_steps": 6, "per_device_train_batch_size": 8}
SPLITS: dict[str, Any] = {"train": ROWS, "validation": ROWS[::2], "test": ROWS[1::2]}


def some_task(name: str, base: Path | str, **fields: Any) -> Task:
    return Task(task=name, base=str(base), **{"data": SPLITS, "labels": WORDS, **RECIPE, **fields})


def prompt_of(library: Library, ref: str) -> SoftPrompt:
    return SoftPrompt.from_bytes(library.read(library.registry.resolve(ref)))


def saved(kind: str, folder: Path) -> Path:
    base = make_headed(kind)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("bert", tmp_path_factory.mktemp("bases") / "tiny-bert")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("bert classifier", tmp_path_factory.mktemp("bases") / "tiny-classifier")


def plain_scores(base: FrozenBase, prompt: SoftPrompt, text: str) -> dict[str, float]:
    """By the plain model, the mean over frame and input, and the numbers of the head."""
    assert prompt.classifier is not None
    ids = [*base.frame[0], *base.encode([text])[0], *base.frame[1]]
    embeds = torch.cat([prompt.vectors_PD, base.embed(torch.tensor(ids))])[None]
    with torch.no_grad():
        mean_F = base.model(inputs_embeds=embeds).last_hidden_state[0, len(prompt.vectors_PD) :].mean(0)
    chances = (prompt.classifier.weight_CF @ mean_F + prompt.classifier.bias_C).softmax(0).tolist()
    return dict(zip(prompt.card.labels or (), chances, strict=True))


def test_an_encoder_goes_from_tasks_of_unequal_labels_to_answers(folder: Path, tmp_path: Path) -> None:
    many = [f"{word} {other}" for word in WORDS for other in WORDS][:20]
    rows = [{"text": text, "label": text} for text in many] * 3
    tasks = [
        some_task("few", folder, task_type="SEQ_CLS", class_weights="balanced"),
        some_task("many", folder, labels=many, data={"train": rows, "test": rows[:20]}, max_steps=3, num_virtual_tokens=6),
    ]
    with Library.open(tmp_path / "home") as library:
        few, _ = softprompt.train(tasks, library=library)
        row, card = few.row(), few.prompt.card
        assert (card.task_type, card.format, card.num_labels, card.recipe["pooling"]) == ("SEQ_CLS", 2, 6, "mean")
        assert card.recipe["objective"] == "label_scoring"
        assert (row["trainable"], row["zero_shot"] is not None) == (5 * 32 + 6 * 33, True)
        base = FrozenBase.load(str(folder), device="cpu")
        assert (base.task_type, base.context) == ("SEQ_CLS", 96)
        offline, texts, refs = Service(library, base=base), ["red stone", "river", "blue apple"], ["few", "many", "few"]
        mixed = offline.predict(texts, refs)
        for text, ref, answer in zip(texts, refs, mixed, strict=True):
            assert answer.scores == pytest.approx(plain_scores(base, prompt_of(library, ref), text), abs=1e-5)
        with serving(library, base, engine=ContinuousEngine(architecture_of(base))) as server, server.client() as client:
            for ref in ("few", "many"):
                body = {"model": ref, "input": texts}
                found = server.http.post(f"{server.url}/v1/classify", json=body).json()["data"]
                for given, answer in zip(found, offline.predict(texts, ref), strict=True):
                    assert given["label"] == answer.output
                    assert given["scores"] == pytest.approx(answer.scores, abs=1e-5)
            with pytest.raises(openai.BadRequestError, match="an encoder that answers through a head, which writes no text"):
                client.completions.create(model="few", prompt="red", max_tokens=4)
        (judged,) = softprompt.evaluate("few", library=library, data=ROWS[30:])
        assert judged.rows == 6
        assert offline.remarks == []


def test_a_bank_trains_each_as_it_would_alone(folder: Path) -> None:
    tasks = [
        some_task("one", folder),
        some_task("other", folder, labels=WORDS[:3], data={"train": ROWS[:18]}, num_virtual_tokens=7, seed=3),
        some_task("third", folder, encoder_reparameterization_type="LOW_RANK", encoder_hidden_size=2),
        some_task("fourth", folder, encoder_reparameterization_type="RESIDUAL", encoder_hidden_size=4),
    ]
    together = softprompt.train(tasks, publish=False)
    for task, beside in zip(tasks, together, strict=True):
        (alone,) = softprompt.train(task, publish=False)
        torch.testing.assert_close(beside.prompt.rows_PD, alone.prompt.rows_PD, rtol=1e-3, atol=1e-4)
        assert beside.prompt.classifier is not None


def test_prefixes_and_soft_prompts_go_through_one_session_and_one_server(folder: Path, tmp_path: Path) -> None:
    tasks = [some_task("soft", folder), some_task("deep", folder, prompt_type="prefix", num_virtual_tokens=4, max_steps=40)]
    with Library.open(tmp_path / "home") as library:
        _, deep = softprompt.train(tasks, library=library)
        assert deep.report.value > 0.6
        card = deep.prompt.card
        assert (card.prompt_type, card.token_dim, card.format, deep.row()["trainable"]) == (
            "prefix",
            128,
            2,
            4 * 128 + 6 * 33,
        )
        (alone,) = softprompt.train(tasks[1], publish=False)
        torch.testing.assert_close(deep.prompt.rows_PD, alone.prompt.rows_PD, rtol=1e-3, atol=1e-4)
        again = some_task("more", folder, prompt_type="prefix", prompt_tuning_init_prompt="deep", max_steps=1,
                          num_virtual_tokens=4)  # fmt: skip
        (more,) = softprompt.train(again, library=library)
        assert more.report.value > 0.6  # it begins where that ended, its head too
        from_soft = some_task("of-soft", folder, prompt_type="prefix", prompt_tuning_init_prompt="soft", max_steps=1)
        assert softprompt.train(from_soft, library=library)[0].prompt.card.num_virtual_tokens == 5
        base = FrozenBase.load(str(folder), device="cpu")
        texts, refs = ["red stone", "river", "blue apple"], ["deep", "soft", "more"]
        offline = Service(library, base=base)
        mixed = offline.predict(texts, refs)
        with serving(library, base, engine=ContinuousEngine(architecture_of(base))) as server:
            for text, ref, answer in zip(texts, refs, mixed, strict=True):
                (single,) = offline.predict([text], ref)
                body = {"model": ref, "input": text}
                (live,) = server.http.post(f"{server.url}/v1/classify", json=body).json()["data"]
                assert answer.scores == pytest.approx(single.scores, abs=1e-5)
                assert live["scores"] == pytest.approx(single.scores, abs=1e-5)


def test_what_can_be_learnt_is_learnt_by_any_kind(folder: Path, classifier: Path, tmp_path: Path) -> None:
    sets = [{"text": f"{a} {b}", "label": sorted({a, b})} for a in WORDS[:3] for b in WORDS[:3]] * 4
    numbers = [{"text": word, "label": str(at % 3 + 1)} for at, word in enumerate(WORDS)] * 4
    tasks = [
        some_task("first", folder, max_steps=40),
        some_task("set", folder, problem_type="multi_label_classification", labels=WORDS[:3],
                  data={"train": sets, "validation": sets[:9], "test": sets[:9]}, max_steps=40),
        some_task("number", folder, problem_type="regression", labels=["1", "2", "3"], max_steps=30,
                  data=dict.fromkeys(("train", "validation", "test"), numbers)),
    ]  # fmt: skip
    by_mean = softprompt.train(tasks, publish=False)
    (pooled,) = softprompt.train(some_task("pooled", classifier, max_steps=40), publish=False)
    assert [one.prompt.card.metric for one in by_mean] == ["accuracy", "micro_f1", "mae"]
    assert by_mean[0].report.value > 0.6
    assert by_mean[1].report.value > 0.8
    assert by_mean[2].report.value < 0.4
    assert by_mean[1].prompt.card.num_labels == 6
    assert pooled.prompt.card.recipe["pooling"] == "classifier"
    assert pooled.report.loss < 1.6  # 1.79 by chance: random layers see little of an input in one column


def test_a_prompt_with_a_head_is_read_back_and_an_old_reader_refuses_it(folder: Path) -> None:
    (tuned,) = softprompt.train(some_task("t", folder, max_steps=2), publish=False)
    prompt = tuned.prompt
    data = prompt.to_bytes()
    again = SoftPrompt.from_bytes(data)
    assert again.to_bytes() == data
    assert torch.equal(again.rows_PD, prompt.rows_PD)
    card, stored = read_file(data)
    assert card.format == 2
    assert {WEIGHT, BIAS, "prompt_embeddings"} <= {*stored}
    small = prompt.as_dtype("int8")
    assert small.classifier is not None
    assert prompt.classifier is not None
    assert torch.equal(SoftPrompt.from_bytes(small.to_bytes()).rows_PD, small.rows_PD)
    assert torch.equal(small.classifier.weight_CF, prompt.classifier.weight_CF)
    without = {name: tensor for name, tensor in stored.items() if name != BIAS}
    with pytest.raises(PromptFileError, match="the card says SEQ_CLS and the file holds no head"):
        SoftPrompt.from_bytes(write_file(card, without))
    other = card.model_copy(update={"task_type": "MASKED_LM"})
    with pytest.raises(PromptFileError, match="the card says MASKED_LM and the file holds a head"):
        SoftPrompt.from_bytes(write_file(other, stored))
    fewer = card.model_copy(update={"labels": ("a", "b")})
    with pytest.raises(PromptFileError, match="labels for a head of 2, and the tensors are"):
        SoftPrompt.from_bytes(write_file(fewer, stored))
    with pytest.raises(ConfigError, match="has a head for 6 labels, in their order, and 2 were given"):
        card.changed({"labels": ("a", "b")})
    assert card.changed({"labels": tuple("abcdef")}).labels == tuple("abcdef")
    with pytest.raises(ValueError, match="a prompt with a head has labels"):
        Card.model_validate({**card.model_dump(), "labels": None})


def test_a_prompt_starts_from_another_with_its_head_where_the_labels_are_its_own(folder: Path, tmp_path: Path) -> None:
    with Library.open(tmp_path / "home") as library:
        (first,) = softprompt.train(some_task("t", folder), library=library)
        begun = {"prompt_tuning_init_prompt": "t@1", "max_steps": 1, "learning_rate": 1e-9}
        same, other = softprompt.train(
            [some_task("same", folder, **begun), some_task("other", folder, labels=WORDS[::-1], **begun)], library=library
        )
        torch.testing.assert_close(same.prompt.rows_PD, first.prompt.rows_PD, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.prompt.vectors_PD, first.prompt.vectors_PD, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(other.prompt.rows_PD, first.prompt.rows_PD, atol=1e-2)
        softprompt.train(some_task("t", folder, seed=5), library=library)
        softprompt.combine(["t@1", "t@2"], "interpolate", weights=[1, 3], library=library)
        one, two, mean = (prompt_of(library, f"t@{number}") for number in (1, 2, 3))
        torch.testing.assert_close(mean.rows_PD, 0.25 * one.rows_PD + 0.75 * two.rows_PD)
        for operation in ("ensemble", "concatenate"):
            with pytest.raises(ConfigError, match=f"t@1 has a head, and {operation} takes prompts without"):
                softprompt.combine(["t@1", "t@2"], operation, library=library)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="the heads of t@1 and other@1 are for other labels"):
            softprompt.combine(["t@1", "other@1"], "average", task="t", like="t@1", library=library)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"objective": "language_modelling"}, "objective: language_modelling is of bases that answer in words"),
        ({"objective": "distillation", "instruction": "Say."}, "objective: distillation is of bases"),
        ({"objective": "unlikelihood", "unwanted": "kind"}, "objective: unlikelihood is of bases"),
        (
            {"labels": None, "metric": "exact_match"},
            "has no `labels`, and tiny-bert is an encoder that answers through a head",
        ),
        ({"task_type": "MASKED_LM"}, "its task type is SEQ_CLS, not MASKED_LM"),
        (
            {"data": {"train": ROWS, "validation": 0.2, "subsets": 2}},
            r"which prompts with heads .* are not; leave subsets out",
        ),
    ],
)
def test_what_a_head_cannot_do_is_refused_by_name(
    fields: dict[str, Any], expected: str, folder: Path, tmp_path: Path
) -> None:
    with Library.open(tmp_path / "home") as library, pytest.raises((ConfigError, BaseModelError), match=expected):
        softprompt.train(some_task("t", folder, **fields), library=library)


def test_a_masked_model_is_asked_for_no_head(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"asks for task_type SEQ_CLS, .* its task type is MASKED_LM"):
        some_task("t", "x", task_type="SEQ_CLS").encode(make_masked("bert"), ROWS[:2], 4, split="test")
    some_task(
        "t", "org/distilroberta-sentences", task_type="SEQ_CLS"
    ).check_base_name()  # may have none, for all its name says


def test_an_engine_refuses_a_job_whose_prompt_has_no_head(folder: Path) -> None:
    task = some_task("t", folder)
    base = make_headed("bert")
    engine = ContinuousEngine(architecture_of(base))
    try:
        job = ScoreJob(Vectors("a" * 64, torch.zeros(5, 32)), (5, 6), task.form.encode_labels(base))
        with pytest.raises(EngineError, match="has 5 rows, and a head for 6 labels on random/bert takes 7"):
            engine.submit(job, lambda result: None)
    finally:
        engine.stop()


def test_prompts_of_both_kinds_are_compared(folder: Path) -> None:
    task = some_task("t", folder, max_steps=2)
    soft, prefix = softprompt.compare(task, methods=["ours", "prefix"])
    assert (soft["trainable"], prefix["trainable"]) == (5 * 32 + 6 * 33, 5 * 128 + 6 * 33)
    with pytest.raises(ConfigError, match=r"answers through a head, which no examples tell anything; leave out few_shot"):
        softprompt.compare(task, methods=["few_shot", "ours"])


# PEFT


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0]
    return logits


@pytest.mark.parametrize("prompt_type", ["soft", "prefix"])
def test_a_head_goes_out_to_peft_and_comes_back_with_the_same_logits(
    prompt_type: str, classifier: Path, tmp_path: Path
) -> None:
    with Library.open(tmp_path / "home") as library:
        softprompt.train(some_task("t", classifier, prompt_type=prompt_type), library=library)
        prompt, base = prompt_of(library, "t"), FrozenBase.load(str(classifier), device="cpu")
        save_peft(prompt, tmp_path / "out", str(classifier))
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(
            classifier, num_labels=6, ignore_mismatched_sizes=True
        )
        theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval()
        text = "red stone"
        ids = [*base.frame[0], *base.encode([text])[0], *base.frame[1]]
        (ours,) = Service(library, base=base).predict([text], "t")
        assert list((ours.scores or {}).values()) == pytest.approx(logits_of(theirs, ids).softmax(0).tolist(), abs=1e-5)
        told = (tmp_path / "out" / "README.md").read_text()
        assert "num_labels=6" in told
        assert '"red", "green"' in told
        assert "An answer is worded" not in told
        import_prompt(library, tmp_path / "out", task="again", base=str(classifier))
        assert torch.equal(prompt_of(library, "again").rows_PD, prompt.rows_PD)
        (back,) = Service(library, base=base).predict([text], "again")
        assert back.scores == ours.scores


@pytest.mark.parametrize("kind", [peft.PromptTuningConfig, peft.PrefixTuningConfig])
def test_what_peft_makes_itself_comes_in_with_its_logits(kind: Any, classifier: Path, tmp_path: Path) -> None:
    base = FrozenBase.load(str(classifier), device="cpu")
    torch.manual_seed(2)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(classifier)
    made = peft.get_peft_model(plain, kind(task_type="SEQ_CLS", num_virtual_tokens=5)).eval()
    with torch.no_grad():
        next(p for n, p in made.named_parameters() if "modules_to_save" in n and n.endswith("weight")).normal_()
    made.save_pretrained(str(tmp_path / "made"))
    prompt = load_peft(tmp_path / "made", task="t", base=base)
    assert prompt.card.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    architecture = architecture_of(base)
    ids = [5, 9, 31]
    framed = [*base.frame[0], *ids, *base.frame[1]]
    with torch.no_grad():
        ours = architecture.logits_behind(stack_prompts([prompt.rows_PD]), None, [0], [ids], [((),) * 3])[0]
    torch.testing.assert_close(ours, logits_of(made, framed), rtol=1e-5, atol=1e-5)
    with Library.open(tmp_path / "home") as library:
        version = import_prompt(library, tmp_path / "made", task="t", base=str(classifier), labels=["a", "b", "c"])
        assert version.card.labels == ("a", "b", "c")
        with pytest.raises(ConfigError, match="has a head for 3 labels"):
            import_prompt(library, tmp_path / "made", task="t", base=str(classifier), labels=["a", "b"])


def test_heads_that_peft_would_pool_otherwise_are_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    (tuned,) = softprompt.train(some_task("t", folder, max_steps=2), publish=False)
    with pytest.raises(PromptFileError, match=r"is given the mean over the input, and PEFT's is given what a model of BERT"):
        save_peft(tuned.prompt, tmp_path / "out", "some/base")
    pooled = {"pooling": "classifier.out_proj"}
    other = SoftPrompt(
        tuned.prompt.vectors_PD, tuned.prompt.card.model_copy(update={"recipe": pooled}), None, tuned.prompt.classifier
    )
    with pytest.raises(PromptFileError, match=r"what stands before 'classifier.out_proj', a part of its last module"):
        save_peft(other, tmp_path / "out", "some/base")
    base = make_headed("roberta classifier")
    made = peft.get_peft_model(copy.deepcopy(base.model), peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5))
    made.save_pretrained(str(tmp_path / "roberta"))
    with pytest.raises(PromptFileError, match=r"has more than one layer in 'classifier.out_proj'; give a base"):
        load_peft(tmp_path / "roberta", task="t", base=base)
    with pytest.raises(PromptFileError, match=r"random/bert \(BertModel\) takes the mean over an input; give a base"):
        load_peft(tmp_path / "roberta", task="t", base=make_headed("bert"))
    with pytest.raises(PromptFileError, match=r"holds base_model.classifier.dense.bias .* beside the prompt, and a head on"):
        load_peft(tmp_path / "roberta", task="t", base=make_headed("bert classifier"))


# The command line


def run(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_commands_go_from_rows_to_answers(folder: Path, tmp_path: Path) -> None:
    table, home = tmp_path / "rows.csv", str(tmp_path / "home")
    table.write_text("\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in ROWS * 2)]))
    run("init", str(table), "--base", str(folder))
    written = (tmp_path / "rows.yaml").read_text()
    assert "task_type: SEQ_CLS" in written
    assert "{text}" in written
    (shown,) = run("base", "show", str(folder))
    assert (shown["task_type"], shown["pooling"]) == ("SEQ_CLS", "mean")
    file = str(tmp_path / "rows.yaml")
    (planned,) = run("train", file, "--plan", "--set", "max_steps=9", "--set", "num_virtual_tokens=5", "--home", home)
    assert planned["objective"] == "label_scoring"
    (trained,) = run("train", file, "--set", "max_steps=9", "--set", "num_virtual_tokens=5", "--home", home)
    assert trained["metric"] == "accuracy"
    (judged,) = run("evaluate", file, "--home", home)
    assert judged["value"] == trained["value"]
    (answer,) = run("predict", "rows", "red stone", "--home", home)
    assert sum(answer["scores"].values()) == pytest.approx(1)
    (listed,) = run("show", "rows", "--home", home)
    assert listed["task"] == "rows"


def test_a_file_of_another_head_is_told_apart() -> None:
    card = Card(
        task="t", task_type="SEQ_CLS", base="b", fingerprint="0" * 32, num_virtual_tokens=1, token_dim=4, labels=("a", "b")
    )
    head = Classifier(torch.ones(2, 3), torch.zeros(2))
    prompt = SoftPrompt(torch.ones(1, 4), card, classifier=head)
    assert prompt.rows_PD.shape == (3, 4)
    assert prompt.digest != SoftPrompt(torch.ones(1, 4), card, classifier=Classifier(2 * head.weight_CF, head.bias_C)).digest
    with pytest.raises(PromptFileError, match="not finite"):
        SoftPrompt(torch.ones(1, 4), card, classifier=Classifier(head.weight_CF, torch.tensor([torch.nan, 0])))


def test_what_becomes_of_a_prompt_with_a_head(folder: Path, classifier: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    split = {"train": str(file), "validation": str(file), "test": str(file)}
    with Library.open(tmp_path / "home") as library:
        (tuned,) = softprompt.train(some_task("words", folder, data=split), library=library)
        found = softprompt.inspect("words", data=ROWS, library=library)
        assert [one.position for one in found] == list(range(5))
        assert all(one.lost is not None for one in found)
        again = softprompt.retrain("words", library=library)
        assert (again.old, again.value) == (tuned.report.value, tuned.report.value)
        assert library.registry.resolve("words@2").digest == tuned.prompt.digest
        (moved,) = softprompt.upgrade("words", to=str(classifier), library=library)
        assert (moved.old_version, moved.new_version, moved.recycled) == (2, 3, None)
        assert "a base that answers through a head, which starts anew" in moved.reason
        with pytest.raises(ConfigError, match="answers through a head, and no personal version has one"):
            softprompt.personalize("words", ROWS, user="ann", library=library)
