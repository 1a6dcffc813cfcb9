"""Training prefixes: gradients, starts and sessions against their slow twins, beside soft prompts in one session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import BaseModelError, ConfigError
from softprompt.evaluation.evaluate import evaluate
from softprompt.evaluation.trials import result_of
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.model.kinds.causal import Causal
from softprompt.model.prefix import cache_argument, layout_for
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.offline import Service
from softprompt.tasks.config.config import PREFIX_LENGTH, parse_config
from softprompt.tasks.task import Task
from softprompt.training.objectives import LabelTarget
from softprompt.training.plan import plan
from softprompt.training.prepare import PREFIX_RATE, RATE, Preparer
from softprompt.training.steps.forward import Example
from softprompt.training.sweep import sweep
from softprompt.training.train import train
from tests.models import ARCHITECTURES, UNEVEN, make_base, make_causal, weights_digest
from tests.sessions import check_step, cut, runs_of, some_examples
from tests.training.test_resume import make_task

LABELS = ((5,), (6, 7), (6, 8, 9))


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


def a_prefix(folder: Path, name: str, **fields: Any) -> Task:
    return make_task(folder, name, **{"prompt_type": "prefix", "num_virtual_tokens": 4, "learning_rate": 0.02, **fields})


# Gradients


def plain_loss(causal: Causal, matrix_PW: torch.Tensor, example: Example) -> torch.Tensor:
    """A row alone, by the model itself behind a cache of its own."""
    base, layout = causal.base, layout_for(causal.base, causal.layout)
    count, stem = len(matrix_PW), len(example.input)

    def log_probability(answer: list[int]) -> torch.Tensor:
        cache = DynamicCache()
        for number, (keys, values) in enumerate(layout.unfold(matrix_PW[None]).layers):
            cache.update(keys, values, number)
        ids = [*example.input, *answer]
        positions = torch.arange(count, count + len(ids))[None]
        logits = base.model(
            input_ids=torch.tensor([ids]), position_ids=positions, **{cache_argument(base.model): cache}
        ).logits[0]
        logprobs = logits[stem - 1 : -1].log_softmax(-1)
        return logprobs.gather(1, torch.tensor(answer)[:, None]).sum()

    if isinstance(example.target, LabelTarget):
        scores = [log_probability(list(label)) for label in example.target.labels]
        return -torch.stack(scores).log_softmax(0)[example.target.choice]
    return -log_probability(list(example.target))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, UNEVEN])
def test_losses_and_gradients_are_those_of_each_row_alone(architecture: str) -> None:
    causal = make_causal(architecture)
    width = layout_for(causal.base, causal.layout).width
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randn(rows, width, generator=generator) * 0.5 for rows in (4, 2)]
    head = [20, 21, 22]  # of all inputs, as a template has it
    inputs = [[*head, 4, 9], [*head, 30], [*head, 11, 12, 13, 14, 15], [*head, 50, 51]]
    examples = some_examples(inputs, LABELS, labelled=2)
    check_step(causal, prompts, examples, plain_loss, within=1e-3)


# Where they start

STARTS: list[dict[str, Any]] = [
    {"prompt_tuning_init": "RANDOM"},
    {"prompt_tuning_init": "SAMPLE_VOCAB"},
    {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "the red apple is good"},
    {"prompt_tuning_init": "LABELS"},
]


def scores_behind(base: FrozenBase, start: torch.Tensor) -> torch.Tensor:
    inputs = [[4, 9, 17], [30], [11, 12, 13]]
    engine = OfflineEngine(architecture_of(base))
    scores = result_of(engine.score([start.to(base.dtype)], [0, 0, 0], inputs, [LABELS] * 3))
    return torch.tensor(scores)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("start", STARTS, ids=lambda start: str(start["prompt_tuning_init"]))
def test_a_prefix_starts_as_the_keys_and_values_of_what_a_soft_prompt_starts_from(
    architecture: str, start: dict[str, Any], tmp_path: Path
) -> None:
    base = make_base(architecture)
    soft, prefix = runs_of(base, [make_task(tmp_path, "s", num_virtual_tokens=4, **start), a_prefix(tmp_path, "p", **start)])
    assert soft.start_PD.shape == (4, base.width) != prefix.start_PD.shape
    torch.testing.assert_close(
        scores_behind(base, prefix.start_PD), scores_behind(base, soft.start_PD), rtol=1e-5, atol=1e-4
    )


def published(base: FrozenBase, library: Library, task: Task) -> SoftPrompt:
    (tuned,) = train(task, base=base, library=library)
    assert torch.equal(SoftPrompt.from_bytes(library.read(task.name)).vectors_PD, tuned.prompt.vectors_PD)
    return tuned.prompt


def test_from_a_soft_prompt_it_begins_where_that_ended_and_from_a_prefix_it_is_that(
    base: FrozenBase, tmp_path: Path
) -> None:
    library = Library.open(tmp_path / "home")
    soft = published(base, library, make_task(tmp_path, "soft", max_steps=2))
    of_soft = Task(**named(a_prefix(tmp_path, "of-soft", prompt_tuning_init_prompt="soft"), num_virtual_tokens=None))
    run, _ = Preparer(base).prepare(of_soft, library)
    assert len(run.start_PD) == run.config.num_virtual_tokens == len(soft.vectors_PD) == 6
    assert run.parents == (soft.digest,)
    torch.testing.assert_close(scores_behind(base, run.start_PD), scores_behind(base, soft.vectors_PD), rtol=1e-5, atol=1e-4)
    prefix = published(base, library, of_soft)
    again, _ = Preparer(base).prepare(
        a_prefix(tmp_path, "again", prompt_tuning_init_prompt="of-soft", num_virtual_tokens=6), library
    )
    assert torch.equal(again.start_PD, prefix.vectors_PD)

    def start(**fields: Any) -> None:
        Preparer(base).prepare(make_task(tmp_path, "no", **fields), library)

    with pytest.raises(ConfigError, match=r"the prefix to start from has 6, .* say num_virtual_tokens: 6"):
        start(prompt_type="prefix", num_virtual_tokens=5, prompt_tuning_init_prompt="of-soft")
    with pytest.raises(ConfigError, match=r"names a prefix \(of-soft, prefix\), of whose keys and values no soft prompt"):
        start(prompt_tuning_init_prompt="of-soft")
    with pytest.raises(ConfigError, match=r"names prefixes and soft prompts \(soft, soft, of-soft, prefix\)"):
        start(prompt_type="prefix", prompt_tuning_init_prompt=["soft", "of-soft"])


def named(task: Task, **fields: Any) -> dict[str, Any]:
    """The fields of a task file with others; None takes one out."""
    kept = task.config.model_dump(exclude_unset=True) | fields
    return {key: value for key, value in kept.items() if value is not None}


# What a file says


def test_a_prefix_has_defaults_of_its_own(base: FrozenBase, tmp_path: Path) -> None:
    soft, prefix = parse_config({}), parse_config({"prompt_type": "prefix"})
    assert (soft.num_virtual_tokens, prefix.num_virtual_tokens) == (50, PREFIX_LENGTH)
    task = Task(**named(a_prefix(tmp_path, "p"), num_virtual_tokens=None, learning_rate=None))
    assert task.variant(prompt_type="soft").config.num_virtual_tokens == 50
    (run,) = runs_of(base, [task])
    assert run.config.learning_rate == pytest.approx(PREFIX_RATE * float(run.start_PD.std()), rel=0.01)
    (soft_run,) = runs_of(base, [task.variant(prompt_type="soft")])
    assert soft_run.config.learning_rate == pytest.approx(RATE * base.spread, rel=0.01)


def test_pefts_name_of_the_method_is_understood() -> None:
    assert parse_config({"peft_type": "PREFIX_TUNING"}).prompt_type == "prefix"
    assert parse_config({"peft_type": "PREFIX_TUNING"}).num_virtual_tokens == PREFIX_LENGTH
    assert parse_config({"peft_type": "PROMPT_TUNING"}).prompt_type == "soft"
    with pytest.raises(ConfigError, match="PREFIX_TUNING is no soft prompt, and prompt_type says soft"):
        parse_config({"peft_type": "PREFIX_TUNING", "prompt_type": "soft"})
    with pytest.raises(ConfigError, match="prompt_type"):
        parse_config({"prompt_type": "prefixes"})


def test_a_base_that_takes_no_prefix_refuses_the_task_by_name(
    base: FrozenBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Causal, "shares_prefix", False)
    with pytest.raises(BaseModelError, match=r"random/llama \(LlamaForCausalLM\) takes no prefix"):
        Preparer(base).prepare(a_prefix(tmp_path, "p"), None)


# Sessions


def test_in_a_session_of_both_kinds_each_ends_as_it_does_alone(base: FrozenBase, tmp_path: Path) -> None:
    before = weights_digest(base)
    tasks = [
        make_task(tmp_path, "soft"),
        a_prefix(tmp_path, "short", max_steps=5, learning_rate=0.05),
        a_prefix(tmp_path, "long", num_virtual_tokens=7, optim="adafactor"),
        make_task(tmp_path, "other", num_virtual_tokens=5, max_steps=9),
        a_prefix(tmp_path, "network", encoder_reparameterization_type="RESIDUAL", encoder_hidden_size=4),
    ]
    together = train(tasks, base=base, publish=False)
    assert weights_digest(base) == before
    for task, one in zip(tasks, together, strict=True):
        (alone,) = train(task, base=base, publish=False)
        torch.testing.assert_close(one.prompt.vectors_PD, alone.prompt.vectors_PD, rtol=0, atol=5e-4)
        assert one.prompt.card.prompt_type == task.config.prompt_type
        assert one.report.value == alone.report.value
        assert one.moved > 0


def test_a_resumed_session_of_both_kinds_publishes_the_digests_of_an_uninterrupted_one(
    base: FrozenBase, tmp_path: Path
) -> None:
    tasks = [
        a_prefix(tmp_path, "one", learning_rate=0.05),
        make_task(tmp_path, "two", max_steps=9),
        a_prefix(tmp_path, "three", max_steps=8),
    ]
    whole = [t.prompt.digest for t in train(tasks, base=base, library=Library.open(tmp_path / "whole"))]
    library = Library.open(tmp_path / "cut")
    for steps in (1, 4):
        cut(tasks, base, library, steps)
    assert [t.prompt.digest for t in train(tasks, base=base, library=library)] == whole


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_trains_and_is_run_as_it_was_judged(dtype: torch.dtype, tmp_path: Path) -> None:
    base = make_base("llama", dtype=dtype)
    library = Library.open(tmp_path / "home")
    (tuned,) = train(a_prefix(tmp_path, "p", max_steps=4, learning_rate=0.2), base=base, library=library)
    assert tuned.moved > 0.02
    (judged,) = evaluate("p", library=library, base=base, data=str(tmp_path / "rows.jsonl"))
    assert 0 <= judged.value <= 1


def test_a_sweep_tries_both_kinds(base: FrozenBase, tmp_path: Path) -> None:
    found = sweep(
        a_prefix(tmp_path, "p", max_steps=4, num_virtual_tokens=5),
        {"prompt_type": ["soft", "prefix"]},
        base=base,
        publish=False,
    )
    assert {row["prompt_type"] for row in found.candidates} == {"soft", "prefix"}


def test_a_plan_of_both_kinds(base: FrozenBase, tmp_path: Path) -> None:
    rows = plan([a_prefix(tmp_path, "p"), make_task(tmp_path, "s")], base=base)
    assert [(row["num_virtual_tokens"], row["steps"]) for row in rows] == [(4, 14), (6, 14)]


# Kept and answered


def test_versions_of_both_kinds_answer_together_as_each_does_alone(base: FrozenBase, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    tasks = [a_prefix(tmp_path, "p"), make_task(tmp_path, "s"), a_prefix(tmp_path, "writes", labels=None, max_new_tokens=3)]
    tuned = train(tasks, base=base, library=library)
    card = library.registry.resolve("p").card
    assert card.prompt_type == "prefix"
    assert card.layers == ((2, 8, 8), (2, 8, 8))
    assert card.token_dim == 64
    assert tuned[0].row()["trainable"] == 4 * 64
    texts = [f"the {colour} stone {n}" for n in range(3) for colour in ("red", "blue")]
    refs = ["p", "s", "writes"] * 2
    service = Service(library, base=base)
    together = service.predict(texts, refs)
    for text, ref, one in zip(texts, refs, together, strict=True):
        (alone,) = service.predict([text], ref)
        assert (one.output, one.task) == (alone.output, ref)
        assert one.scores == (None if alone.scores is None else pytest.approx(alone.scores, abs=1e-4))
    for one, result in zip(
        evaluate([str(task.name) for task in tasks], library=library, base=base, data=str(tmp_path / "rows.jsonl")),
        tuned,
        strict=True,
    ):
        assert (one.task, one.digest) == (result.prompt.card.task, result.prompt.digest)
