"""Methods beside ours: the same rows, steps and evaluation for each, and the base as it was."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from typing import Any

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.compare import names
from softprompt.compare.adapters import Adapters, places_in, put_in
from softprompt.compare.compare import METHODS, compare, refusal, run_method
from softprompt.compare.fit import BATCH, batch_of, fit, head_of
from softprompt.compare.method import Trained
from softprompt.compare.names import NAMES, USUAL
from softprompt.compare.peft_prompts import prefix_of
from softprompt.compare.soft_prompt import of_kind
from softprompt.compare.text_prompts import FewShot, ZeroShot, draw_examples, few_shot_text
from softprompt.compare.trainer import without_future_warnings
from softprompt.compare.weights import Full, Ia3, Lora
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import BaseModelError, ConfigError
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.model.kinds.causal import Causal
from softprompt.model.prefix import layout_for
from softprompt.model.splice import no_prompt, stack_prompts
from softprompt.progress import Mute
from softprompt.tasks.task import Task
from softprompt.tasks.wording.chat import chat_frame, words_of
from softprompt.training.prepare import RATE
from softprompt.training.train import train
from tests.models import make_base, make_headed, make_masked, make_seq2seq, steerable_base, weights_digest
from tests.tasks.wording.test_chat import CHATML, chat_base

WORDS = {"red": "yes", "green": "no", "blue": "yes", "apple": "no"}
ROWS = [{"text": f"{word} {n}", "label": label} for n in range(12) for word, label in WORDS.items()]
TRAINED = [name for name in METHODS if name not in ("zero_shot", "few_shot")]


def a_task(**fields: Any) -> Task:
    known: dict[str, Any] = {
        "task": "t", "data": ROWS, "labels": ["yes", "no"], "num_virtual_tokens": 4, "input": "{text} =",
        "per_device_train_batch_size": 8, "max_steps": 2, "learning_rate": 0.1, "instruction": "Say it.",
    }  # fmt: skip
    return Task(**{**known, **fields})


def a_writing_task() -> Task:
    return a_task(labels=None, max_new_tokens=3)


def judged(trained: Trained, task: Task) -> Report:
    engine = OfflineEngine(trained.architecture)
    (report,) = result_of(judge(engine, [Trial(task.form, trained.vectors_PD, trained.test)]))
    return report


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


# Every method


def test_every_name_is_of_a_method() -> None:
    assert tuple(METHODS) == NAMES


@pytest.mark.parametrize("task", [a_task(), a_writing_task()], ids=["labels", "text"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_method_keeps_to_its_steps_and_leaves_the_base_alone(name: str, task: Task, base: FrozenBase) -> None:
    before = weights_digest(base)
    row = run_method(name, task, base, Mute())
    assert weights_digest(base) == before
    assert not any(weight.requires_grad for weight in base.model.parameters())
    assert not base.model.training
    assert row["steps"] == 2
    assert row["train_rows"] == len(task.train)
    assert row["rows"] == len(task.test)
    assert row["metric"] == task.form.metric
    assert 0 <= row["value"] <= 1
    assert row["trainable"] > 0
    assert row["bytes"] >= row["trainable"] * 2 or name == "p_tuning"  # whose network is not kept
    assert row["learning_rate"] > 0
    assert (row["rates"], row["decision"], row["take"]) == ([], None, None)
    assert abs(row["added_latency_ms"]) < row["latency_ms"] + 1000
    assert row["seconds"] > 0
    assert row["latency_ms"] > 0
    assert row["peak_mb"] > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_the_same_again(name: str, base: FrozenBase) -> None:
    task = a_task(max_steps=3)
    one, other = (judged(METHODS[name].train(task, base, Mute()), task) for _ in range(2))
    assert one.predictions == other.predictions
    assert one.loss == other.loss


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in ("ours", "peft_prompt_tuning")])
def test_a_method_learns(name: str) -> None:
    task = a_task(max_steps=80 if name in ("adapters", "p_tuning") else 40)
    base = steerable_base()
    start = judged(Trained(architecture_of(base), no_prompt(base), task.encode(base, task.test, 0, split="test")), task)
    assert judged(METHODS[name].train(task, base, Mute()), task).loss < start.loss - 0.05


@pytest.mark.parametrize("name", TRAINED)
def test_a_row_that_weighs_two_is_that_row_twice(name: str) -> None:
    """Of a batch that holds all rows; and other than a row that weighs one."""
    base = steerable_base()
    yes, no = [row for row in ROWS[:6] if row["label"] == "yes"], [row for row in ROWS[:4] if row["label"] == "no"]
    rows = {"twice": (yes * 2 + no, {}), "weighed": (yes + no, {"class_weights": {"yes": 2}}), "plain": (yes + no, {})}
    fields = {"max_steps": 6, "per_device_train_batch_size": 8}
    tasks = {
        kind: a_task(data={"train": train_rows, "validation": ROWS[:8], "test": ROWS[:8]}, **fields, **more)
        for kind, (train_rows, more) in rows.items()
    }
    factor = 300.0 if name == "peft_prompt_tuning" else 1.0  # its rate moves nothing in six steps
    losses = {kind: judged(METHODS[name].train(task, base, Mute(), factor), task).loss for kind, task in tasks.items()}
    assert losses["weighed"] == pytest.approx(losses["twice"], abs=1e-3)
    assert abs(losses["weighed"] - losses["plain"]) > 3 * abs(losses["weighed"] - losses["twice"])
    row = run_method(name, tasks["weighed"], base, Mute())
    assert row["settings"]["class_weights"] == {"yes": 2.0}


# Ours and text prompts


def test_ours_and_zero_shot_are_what_training_says(base: FrozenBase) -> None:
    (tuned,) = train(a_task(max_steps=8), base=base, publish=False, progress=Mute())
    asked = {"methods": ["zero_shot", "ours"], "max_steps": 8, "rates": 1}
    zero_shot, ours = compare(a_task(), base=base, progress=Mute(), **asked)  # type: ignore[arg-type]
    told = tuned.row()
    assert (ours["value"], ours["stderr"], ours["steps"]) == (told["value"], told["stderr"], told["steps"])
    assert (zero_shot["value"], zero_shot["stderr"]) == (told["zero_shot"], told["zero_shot_stderr"])
    assert ours["trainable"] == told["trainable"]
    assert abs(ours["bytes"] - told["prompt_bytes"]) < 1000  # whose card has more scores
    assert (zero_shot["trainable"], zero_shot["bytes"], zero_shot["steps"]) == (0, len("Say it."), 0)


def test_a_few_shot_text_is_the_text_and_the_examples_as_the_task_words_them() -> None:
    words = {"1": "yes", "0": "no"}
    rows = [{**row, "label": "01"[row["label"] == "yes"]} for row in ROWS]
    task = a_task(target=" {label} !", id2label=words, data=rows)
    assert few_shot_text(task, [{"text": "red 1", "label": "1"}, {"text": "apple", "label": "0"}], make_base("llama")) == (
        "Say it.\nred 1 = yes !\n\napple = no !\n\n"
    )
    assert few_shot_text(a_task(instruction=""), [], make_base("llama")) == ""


def test_examples_have_nothing_of_the_bases_own_frame() -> None:
    """The turns of a chat, and what begins texts, are control tokens where a template has them, and text in an example."""
    base = chat_base("byte_level", CHATML)
    frame = chat_frame(base.tokenizer, base.spelling.controls)
    words = words_of(["text"], "label", frame, generates=False)
    task = a_task(**words)
    text = few_shot_text(task, [{"text": "red 1", "label": "yes"}, {"text": "a", "label": "no"}], base)
    assert text == "Say it.\nred 1\nyes\n\na\nno\n\n"
    examples = task.encode(base, task.test, 0, split="test", prepend=text)
    turns = [{"role": "user", "content": text + task.test[0]["text"]}]
    assert examples.inputs[0] == base.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    plain = few_shot_text(a_task(input="<s>{text} ="), [{"text": "red", "label": "yes"}], base)
    assert plain == "Say it.\nred = yes\n\n"
    row = {"messages": [{"role": "user", "content": "red"}], "label": "yes"}
    assert few_shot_text(a_task(input="{messages}"), [row], base) == "Say it.\nred yes\n\n"


def test_an_example_of_a_masked_model_has_its_answer_at_the_mask() -> None:
    base = make_masked("bert")
    task = a_task(task_type="MASKED_LM", input="{text} is {mask} ?")
    assert few_shot_text(task, [{"text": "red", "label": "yes"}], base) == "Say it.\nred is yes ?\n\n"
    assert few_shot_text(a_task(), [{"text": "red", "label": "yes"}], base) == "Say it.\nred = yes\n\n"


def test_examples_are_training_rows_balanced_and_by_seed() -> None:
    rows = [{"text": f"a {n}", "label": "yes"} for n in range(60)] + [{"text": f"b {n}", "label": "no"} for n in range(6)]
    task = a_task(data={"train": rows, "validation": ROWS[:4], "test": ROWS[4:8]})
    drawn = draw_examples(task, 8, seed=0)
    assert Counter(row["label"] for row in drawn) == {"yes": 4, "no": 4}
    assert len({row["text"] for row in drawn}) == 8
    assert draw_examples(task, 8, seed=0) == drawn != draw_examples(task, 8, seed=1)
    assert Counter(row["label"] for row in draw_examples(task, 20, seed=0)) == {"yes": 14, "no": 6}
    assert len(draw_examples(task, 99, seed=0)) == 66
    assert len(draw_examples(a_writing_task(), 8, seed=0)) == 8


@pytest.mark.parametrize("task", [a_task(instruction=None), a_writing_task()], ids=["labels", "text"])
def test_a_few_shot_text_is_asked_as_if_it_stood_before_each_row(task: Task, base: FrozenBase) -> None:
    trained = FewShot(3).train(task, base, Mute())
    text = few_shot_text(task, draw_examples(task, 3, seed=0), base)
    whole = task.encode(base, task.test, 0, split="test", prepend=text)
    assert len(trained.vectors_PD) > 10
    slow = judged(Trained(trained.architecture, no_prompt(base), whole), task)
    quick = judged(trained, task)
    assert quick.predictions == slow.predictions
    assert quick.loss == pytest.approx(slow.loss, rel=1e-4)
    assert trained.bytes == len(text.encode())


def test_a_few_shot_text_has_as_many_examples_as_fit(base: FrozenBase) -> None:
    long = [{"text": f"{row['text']} " + "river " * 8, "label": row["label"]} for row in ROWS]
    task = a_task(data=long)
    with pytest.warns(UserWarning, match=r"t: the few-shot text has \d examples, not 8"):
        (row,) = compare(task, methods=["few_shot"], base=base)
    assert 0 < row["bytes"] < len(few_shot_text(task, draw_examples(task, 8, seed=0), base))
    fit = row["settings"]["shots"]
    assert 0 < fit < 8
    assert row["bytes"] == len(few_shot_text(task, draw_examples(task, 8, seed=0)[:fit], base))


# Prefixes and PEFT


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("task", [a_task(), a_writing_task()], ids=["labels", "text"])
def test_keys_and_values_of_a_prompt_are_judged_as_the_prompt(task: Task, architecture: str) -> None:
    base = make_base(architecture)
    vectors_PD = base.embed(torch.tensor([5, 9, 40, 77])).detach()
    test = task.encode(base, task.test, 4, split="test")
    causal = Causal(base)
    with torch.no_grad():
        prefix = causal.compute_prefix(stack_prompts([vectors_PD]))
    matrix_PW = layout_for(base, causal.layout).fold(prefix)[0]
    one, other = (judged(Trained(causal, prompt, test), task) for prompt in (matrix_PW, vectors_PD))
    assert one.predictions == other.predictions
    assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_a_prefix_is_judged_as_peft_answers(base: FrozenBase) -> None:
    torch.manual_seed(0)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with without_future_warnings():
        model = peft.get_peft_model(copy.deepcopy(base.model), config)
    model.eval()
    ids, label = [5, 9, 40], [77, 78]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids + label])).logits[0].log_softmax(-1)
    expected = float(logits[2, 77] + logits[3, 78])
    causal = Causal(base)
    matrix_PW = layout_for(base, causal.layout).fold(prefix_of(model))[0]
    ((scored,),) = result_of(OfflineEngine(causal).score([matrix_PW], [0], [ids], [(tuple(label),)]))
    plain = result_of(OfflineEngine(causal).score([no_prompt(base)], [0], [ids], [(tuple(label),)]))
    assert scored == pytest.approx(expected, abs=1e-4)
    assert abs(plain[0][0] - expected) > 1e-2


@pytest.mark.parametrize("name", ["prefix", "peft_prefix_tuning"])
def test_a_base_that_takes_no_prefix_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Causal, "shares_prefix", False)
    with pytest.raises(BaseModelError, match=r"random/llama .* takes no prefix"):
        METHODS[name].check(a_task(), make_base("llama"))


def test_each_kind_of_prompt_has_the_rate_and_length_that_are_its_own(base: FrozenBase) -> None:
    """What a file says of a rate is for the kind that it names."""
    for kind, other in (("soft", "prefix"), ("prefix", "soft")):
        task = a_task(prompt_type=kind, learning_rate=0.07)
        assert of_kind(task, kind) is task  # type: ignore[arg-type]
        changed = of_kind(task, other).config  # type: ignore[arg-type]
        assert (changed.prompt_type, changed.learning_rate, changed.num_virtual_tokens) == (other, None, 4)
        soft = METHODS["peft_prompt_tuning_ours"].settings(task, base)["learning_rate"]
        assert soft == (0.07 if kind == "soft" else pytest.approx(RATE * base.spread, rel=0.01))
    assert of_kind(a_task(peft_type="PREFIX_TUNING"), "soft").config.prompt_type == "soft"


# Weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_fine_tuning_at_rate_zero_is_the_base(dtype: torch.dtype) -> None:
    base, task = make_base("llama", dtype=dtype), a_task()
    trained = Full(rate=0.0).train(task, base, Mute())
    assert weights_digest(dataclasses.replace(base, model=trained.architecture.base.model)) == weights_digest(base)
    plain = judged(Trained(architecture_of(base), no_prompt(base), task.encode(base, task.test, 0, split="test")), task)
    assert judged(trained, task) == plain


def test_full_fine_tuning_is_the_obvious_loop() -> None:
    """Against transformers' own loss on rows padded on the right, and AdamW as its paper has it."""
    base, task = make_base("gpt2"), a_task(max_steps=3)
    ours, theirs = (dataclasses.replace(base, model=copy.deepcopy(base.model)) for _ in range(2))
    for one in (ours, theirs):
        one.model.requires_grad_(True)
    fit(ours, list(ours.model.parameters()), task, 1e-3, Mute(), size=0)
    examples = task.encode(base, task.train, 0, split="training")
    optimiser = torch.optim.AdamW(theirs.model.parameters(), lr=1e-3, weight_decay=0.0)
    for step, rate in enumerate([1e-3, 1e-3, 5e-4]):
        rows = batch_of(step, len(examples), 0)
        losses = []
        for row in rows:
            ids, target = examples.inputs[row], examples.targets[row]
            logits = theirs.model(input_ids=torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1]
            losses += [torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none")]
        optimiser.param_groups[0]["lr"] = rate
        torch.cat(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(theirs.model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    moved = 0.0
    for before, one, other in zip(base.model.parameters(), ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-3, atol=5e-4)
        moved = max(moved, float((one - before).abs().max()))
    assert moved > 1e-3


def test_small_updates_are_not_lost_in_16_bits() -> None:
    base, task = make_base("llama", dtype=torch.bfloat16), a_task(max_steps=60)
    trained = Full(rate=1e-4).train(task, base, Mute()).architecture.base.model
    before, after = (dict(model.named_parameters())["model.layers.0.mlp.up_proj.weight"] for model in (base.model, trained))
    large = before.abs() > 0.25  # where a step of the rate is below half of the last bit
    assert after.dtype == torch.bfloat16
    assert float((before != after)[large].float().mean()) > 0.3


@given(st.integers(1, 70), st.integers(0, 5))
def test_every_row_is_taken_once_before_any_comes_again(count: int, seed: int) -> None:
    size = min(BATCH, count)
    batches = [batch_of(step, count, seed) for step in range(count)]
    assert {len(rows) for rows in batches} == {size}
    taken = [row for rows in batches for row in rows]
    epochs = [sorted(taken[start : start + count]) for start in range(0, len(taken) - count + 1, count)]
    assert epochs == [list(range(count))] * len(epochs)


@pytest.mark.parametrize("method", [Lora(), Ia3(), Adapters(), Full()])
def test_weights_of_few_bits_are_not_trained(method: Any, base: FrozenBase) -> None:
    small = dataclasses.replace(base, quantization="int8")
    with pytest.raises(ConfigError, match=r"method '\w+' trains weights, and those of random/llama are int8"):
        method.check(a_task(), small)


# Adapters, IA3 and P-tuning

KINDS = ["llama", "gpt2", "gpt_neox", "qwen2", "opt", "mistral", "gemma2", "gemma4"]


def kind_of(kind: str) -> FrozenBase:
    if kind in ("t5", "bart"):
        return make_seq2seq(kind)
    return make_masked(kind) if kind in ("bert", "distilbert", "electra") else make_base(kind)


@pytest.mark.parametrize("kind", [*KINDS, "t5", "bart", "bert", "distilbert", "electra"])
def test_an_adapter_is_put_behind_the_feed_forward_part_of_each_block(kind: str) -> None:
    base = kind_of(kind)
    names = {id(part): name for name, part in base.model.named_modules()}
    last = {"gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h", "opt": "fc2", "t5": "DenseReluDense.wo", "bart": "fc2"}
    last |= {"bert": "output.dense", "electra": "output.dense", "distilbert": "ffn.lin2"}
    found = [names[id(place)] for place in places_in(base)]
    assert len(found) == (4 if kind in ("t5", "bart") else 2)
    assert all(name.endswith(last.get(kind, "mlp.down_proj")) and ".attention.output" not in name for name in found)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bert"])
def test_adapters_start_at_the_base_and_are_what_they_say(kind: str) -> None:
    """Against the feed-forward layers wrapped by hand, whose numbers are any."""
    base = kind_of(kind)
    task = a_task()

    def loss_of(model: Any) -> float:
        tuned = dataclasses.replace(base, model=model)
        test = task.encode(base, task.test, 0, split="test")
        return judged(Trained(architecture_of(tuned), no_prompt(base), test), task).loss

    ours, by_hand = copy.deepcopy(base.model), copy.deepcopy(base.model)
    adapters = put_in(dataclasses.replace(base, model=ours))
    assert loss_of(ours) == loss_of(base.model)
    generator = torch.Generator().manual_seed(0)
    for adapter in adapters:
        for one in adapter.parameters():
            one.data = torch.randn(one.shape, generator=generator) * 0.2
    for adapter, place in zip(adapters, places_in(dataclasses.replace(base, model=by_hand)), strict=True):
        plain, (down, up) = place.forward, (adapter.down, adapter.up)

        def forward(states: torch.Tensor, plain: Any = plain, down: Any = down, up: Any = up) -> torch.Tensor:
            behind = plain(states)
            inner = (behind @ down.weight.T + down.bias).clamp_min(0)
            return behind + inner @ up.weight.T + up.bias  # type: ignore[no-any-return]

        place.forward = forward
    assert loss_of(ours) == pytest.approx(loss_of(by_hand), rel=1e-5)
    assert abs(loss_of(ours) - loss_of(base.model)) > 1e-3


def test_adapters_train_nothing_else(base: FrozenBase) -> None:
    trained = Adapters().train(a_task(max_steps=3), base, Mute())
    after, before = trained.architecture.base.model.state_dict(), base.model.state_dict()
    changed = {name for name, one in after.items() if name not in before or not one.equal(before[name])}
    assert changed == {name for name in after if ".adapter." in name}
    assert trained.trainable == sum(after[name].numel() for name in changed)
    assert trained.bytes == 4 * trained.trainable


def test_blocks_that_end_otherwise_are_refused(base: FrozenBase) -> None:
    odd = copy.deepcopy(base.model)
    odd.model.layers[1].mlp.router = torch.nn.Linear(32, 3)
    with pytest.raises(ConfigError, match=r"a LlamaDecoderLayer of random/llama ends in no linear layer of 32 outputs"):
        Adapters().check(a_task(), dataclasses.replace(base, model=odd))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "t5", "bert"])
def test_ia3_trains_its_factors_alone(kind: str) -> None:
    base = kind_of(kind)
    before = weights_digest(base)
    trained = Ia3().train(a_task(max_steps=2), base, Mute())
    model = trained.architecture.base.model
    factors = {name: one for name, one in model.named_parameters() if "ia3_l" in name}
    assert trained.trainable == sum(one.numel() for one in factors.values())
    assert any(bool((one != 1).any()) for one in factors.values())
    assert weights_digest(base) == before
    plain = {name.replace(".base_layer", ""): one for name, one in model.state_dict().items() if "ia3_l" not in name}
    assert all(one.equal(base.model.state_dict()[name]) for name, one in plain.items())


def test_ia3_where_peft_knows_no_place_is_told_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"ia3 cannot be compared here: PEFT knows no place for ia3 on random/electra"):
        compare(a_task(), methods=["ia3"], base=make_masked("electra"), progress=Mute())


def test_p_tuning_keeps_the_vectors_that_its_network_makes(base: FrozenBase) -> None:
    """Against the same training through PEFT's own model."""
    task = a_task(max_steps=3)
    trained = METHODS["p_tuning"].train(task, base, Mute())
    torch.manual_seed(0)
    config = peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=base.width)
    with without_future_warnings():
        network = peft.PromptEncoder(
            peft.PromptEncoderConfig(
                num_virtual_tokens=4, token_dim=base.width, num_transformer_submodules=1, encoder_hidden_size=base.width
            )
        )
        model = peft.get_peft_model(copy.deepcopy(base.model), config)
    model.prompt_encoder["default"].load_state_dict(network.state_dict())
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    examples = task.encode(base, task.train, 4, split="training")
    for step, rate in enumerate([1e-3, 1e-3, 5e-4]):
        losses = []
        for row in batch_of(step, len(examples), 0):
            ids, target = examples.inputs[row], examples.targets[row]
            logits = model(input_ids=torch.tensor([ids + target])).logits[0, -len(target) - 1 : -1]
            losses += [torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none")]
        optimiser.param_groups[0]["lr"] = rate
        torch.cat(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    expected_PD = model.get_prompt_embedding_to_save("default")
    torch.testing.assert_close(trained.vectors_PD, expected_PD.detach(), rtol=1e-2, atol=2e-3)
    start_PD = network(torch.arange(4)).detach()
    assert float((trained.vectors_PD - start_PD).abs().max()) > 5e-3
    assert trained.bytes == 4 * 4 * base.width
    assert trained.trainable == sum(one.numel() for one in network.parameters())


def test_what_stands_before_a_prompt_is_trained_as_it_is_judged(base: FrozenBase) -> None:
    """Where no prompt is, a task that says where it stands is the same words without a place."""
    placed, plain = (
        Full(rate=1e-3).train(a_task(input=text, max_steps=3), base, Mute())
        for text in ("so {text}{soft_prompt} =", "so {text} =")
    )
    for one, other in zip(*(each.architecture.base.model.parameters() for each in (placed, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=5e-4)


# Heads


@pytest.mark.parametrize("kind", ["bert", "bert classifier", "distilbert classifier", "mpnet"])
def test_on_a_base_with_a_head_each_method_trains_one_or_is_refused_by_name(kind: str) -> None:
    base, task = make_headed(kind), a_task(max_steps=30, labels=["yes", "no"])
    before, works = weights_digest(base), [name for name in METHODS if refusal(name, task, base) is None]
    assert {"zero_shot", "ours", "p_tuning", "adapters", "full"} <= set(works)
    assert not {"few_shot", "peft_prompt_tuning", "peft_prefix_tuning"} & set(works)
    start = judged(METHODS["zero_shot"].train(task, base, Mute()), task)
    for name in works:
        if name in ("zero_shot", "ours", "prefix"):
            continue
        trained = METHODS[name].train(task, base, Mute())
        assert judged(trained, task).loss < start.loss - 0.01, name
        head = head_of(architecture_of(base), task)
        assert head is not None
        assert trained.trainable > head.numbers
        assert not trained.vectors_PD[-len(head.rows_HD) :].equal(head.rows_HD)
    assert weights_digest(base) == before


def test_zero_shot_on_a_base_with_a_head_is_what_training_says() -> None:
    base = make_headed("bert")
    (tuned,) = train(a_task(max_steps=2), base=base, publish=False, progress=Mute())
    (zero_shot,) = compare(a_task(), methods=["zero_shot"], base=base, progress=Mute())
    assert (zero_shot["value"], zero_shot["stderr"]) == (tuned.row()["zero_shot"], tuned.row()["zero_shot_stderr"])
    assert zero_shot["bytes"] == 4 * 2 * 33
    assert zero_shot["trainable"] == 0


class Told(Mute):
    def __init__(self) -> None:
        super().__init__()
        self.warned = list[str]()

    def warn(self, message: str) -> None:
        self.warned.append(message)


def test_without_names_a_method_that_does_not_work_is_left_out_and_said() -> None:
    told = Told()
    rows = compare(a_task(), max_steps=1, rates=1, base=make_headed("bert"), progress=told)
    left = {one.split()[0]: one for one in told.warned if "is left out" in one}
    assert [row["method"] for row in rows] == [name for name in USUAL if name not in left]
    assert (
        left["few_shot"]
        == "few_shot is left out: random/bert answers through a head, which no examples tell anything; leave out few_shot"
    )


# What is refused

PLACED = "ours,p_tuning,ia3,lora,adapters,full"


@pytest.mark.parametrize(
    ("fields", "kind", "method", "words", "left"),
    [
        ({"input": "{text}{soft_prompt} so"}, None, "peft_prompt_tuning", "says where its prompt stands", PLACED),
        ({"input": "{text}{soft_prompt} so"}, None, "prefix", "stands", PLACED),
        ({}, "t5", "prefix", "takes no prefix", PLACED),
        ({}, "t5", "peft_prefix_tuning", "on causal models alone, and random/t5 is SEQ_2_SEQ_LM", PLACED),
        (
            {},
            "int8",
            "full",
            "trains weights",
            "peft_prompt_tuning,peft_prompt_tuning_ours,p_tuning,prefix,peft_prefix_tuning",
        ),
    ],
)
def test_what_does_not_work_is_told_before_anything_is_trained(
    fields: dict[str, str],
    kind: str | None,
    method: str,
    words: str,
    left: str,
    base: FrozenBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = list[str]()
    monkeypatch.setattr(ZeroShot, "train", lambda *_: trained.append("zero_shot"))
    asked = make_seq2seq("t5") if kind == "t5" else dataclasses.replace(base, quantization=kind)
    with pytest.raises(ConfigError, match=words) as caught:
        compare(a_task(**fields), methods=["zero_shot", "ours", method], base=asked, progress=Mute())
    assert str(caught.value).startswith(f"{method} cannot be compared here: ")
    assert "--methods zero_shot,few_shot,ours" in str(caught.value)
    assert str(caught.value).endswith(left)
    assert not trained


def test_sets_of_labels_are_told_to_be_compared_by_no_method(base: FrozenBase) -> None:
    task = a_task(problem_type="multi_label_classification", data=[{"text": f"a {n}", "label": "yes"} for n in range(40)])
    with pytest.raises(ConfigError, match=r"zero_shot cannot be compared here: .*sets of labels.*; no method works there"):
        compare(task, base=base, progress=Mute())


def test_an_unknown_method_is_told_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="there is no method 'lorra'; did you mean 'lora'"):
        compare("no such file.yaml", methods=["zero_shot", "lorra"])
    with pytest.raises(ConfigError, match="the method 'full' is named twice"):
        compare("no such file.yaml", methods=["full", "full"])
    with pytest.raises(ConfigError, match="no method is named; known: zero_shot, few_shot, ours"):
        compare("no such file.yaml", methods=[])


def test_a_method_without_peft_is_told_by_name(monkeypatch: pytest.MonkeyPatch, base: FrozenBase) -> None:
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"the method 'lora' needs the package peft.* pip install 'softprompt\[peft\]'"):
        compare(a_task(), methods=["zero_shot", "lora"], base=base)
    assert len(compare(a_task(), methods=["zero_shot", "full"], base=base, progress=Mute())) == 2


def test_the_trainer_is_given_inputs_that_are_cut_as_those_that_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's prompt has 20 virtual tokens where the file says none, and leaves room for as much."""
    base, seen = make_base("llama"), list[int]()

    def train(trainer: Any) -> None:
        seen.extend(len(row["input_ids"]) for row in trainer.train_dataset)

    monkeypatch.setattr("transformers.Trainer.train", train)
    rows = [{**row, "text": f"{row['text']} " + "river " * 90} for row in ROWS]
    task = Task(task="t", data=rows, labels=["yes", "no"], input="{text} =", max_steps=1)
    trained = METHODS["peft_prompt_tuning"].train(task, base, Mute())
    assert len(trained.vectors_PD) == 20
    assert max(seen) - 1 == max(map(len, trained.test.inputs)) > 96 - 50
