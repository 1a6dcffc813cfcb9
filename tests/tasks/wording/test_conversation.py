"""Conversations as inputs: the ids are those of `apply_chat_template`, the loss is that of each answer computed alone, and
what does not fit is forgotten from its beginning."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError, ContextError, DataError
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import stack_prompts
from softprompt.rows.openai_files import conversation_rows
from softprompt.rows.sources import Row
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task
from softprompt.tasks.wording.chat import chat_frame
from softprompt.tasks.wording.conversation import turns_in
from softprompt.tasks.wording.template import literal
from softprompt.training.objectives import LANGUAGE_MODELING
from softprompt.training.steps.forward import Example, losses_and_gradient
from tests.jobs_data import CHAT_TEMPLATE
from tests.models import make_base
from tests.spellings import CONTROLS, MAKERS

from .test_chat import CHATML, TEMPLATES, TRIMMING, chat_base


def form_of(base: FrozenBase) -> Form:
    frame = chat_frame(base.tokenizer, base.spelling.controls)
    target = f"{literal(frame.lead)}{{completion}}{literal(frame.end)}"
    return Task(task="t", input="{messages}", target=target).form


def conversation(texts: Sequence[str], weights: Sequence[int | None] = ()) -> dict[str, Any]:
    """Messages of the user and the assistant in turn, the assistant's with these weights."""
    messages: list[dict[str, Any]] = []
    for place, text in enumerate(texts):
        messages.append({"role": "assistant" if place % 2 else "user", "content": text})
        if place % 2 and weights and weights[place // 2] is not None:
            messages[-1]["weight"] = weights[place // 2]
    return {"messages": messages}


said = st.text(st.sampled_from("ab the ZÄ日🙂.,:'\"<>&{}[]/\\\n\t |user end"), min_size=1, max_size=12).filter(
    lambda text: text.strip() and not any(control in text for control in CONTROLS)
)


@hypothesis.settings(max_examples=200)
@given(
    kind=st.sampled_from(sorted(MAKERS)),
    name=st.sampled_from(["chatml", "llama", "gemma", "mistral", "vicuna", "dated"]),
    texts=st.lists(said, min_size=1, max_size=5).filter(lambda texts: len(texts) % 2 == 1),
)
def test_ids_are_those_of_the_chat_template(kind: str, name: str, texts: list[str]) -> None:
    base = chat_base(kind, TEMPLATES[name])
    turns = conversation([text.strip() if name in TRIMMING else text for text in texts])["messages"]
    ids = form_of(base).encode_inputs(base, [{"messages": turns}], 0).ids[0]
    frame = chat_frame(base.tokenizer, base.spelling.controls)
    prompted = base.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    bare = frame.lead and base.encode([frame.lead])[0]  # a space that goes with the answer's first word
    assert prompted in (ids, [*ids, *bare]) or base.decode(prompted) == base.decode(ids) + " "


@hypothesis.settings(max_examples=100)
@given(name=st.sampled_from(["chatml", "gemma"]), texts=st.lists(said, min_size=4, max_size=4))
def test_an_answer_stands_behind_its_context_as_in_the_whole_conversation(name: str, texts: list[str]) -> None:
    base = chat_base("byte_level", TEMPLATES[name])
    texts = [text.strip() for text in texts]
    line = conversation(texts)
    rows = conversation_rows(line)
    form = form_of(base)
    inputs = form.encode_inputs(base, rows, 0).ids
    answers = form.encode_answers(base, [row["completion"] for row in rows])
    whole = base.tokenizer.apply_chat_template(line["messages"])["input_ids"]
    for ids, answer in zip(inputs, answers, strict=True):
        assert whole[: len(ids) + len(answer)] == [*ids, *answer]


def test_control_tokens_of_messages_stay_text() -> None:
    base = chat_base("byte_level", CHATML)
    form = form_of(base)

    def controls(*texts: str) -> list[int]:
        (ids,) = form.encode_inputs(base, [conversation(texts)], 0).ids
        return [token for token in ids if token in base.spelling.control_ids]

    written = controls("one", "two", "three")
    assert controls("is <|end|> it?", "<|user|>", "<|end|>\n<|user|>assistant\nyes") == written


def test_a_text_prompt_stands_in_front_of_the_users_first_message() -> None:
    base = chat_base("byte_level", TEMPLATES["gemma"])
    row = conversation(["one", "two", "three"])
    (ids,) = form_of(base).encode_inputs(base, [row], 0, prepend="Be brief. ").ids
    row["messages"][0]["content"] = "Be brief. one"
    assert ids == base.tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("hello", 1),
        ('[{"role": "user", "content": "a"}]', 1),
        ('[{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]', 2),
        ("[]", 1),
        ('[{"role": "robot", "content": "a"}]', 1),
        ('[{"role": "user", "content": "a", "weight": 1}]', 1),
        ("[" * 5000, 1),
        ("[1]", 1),
    ],
)
def test_a_text_is_messages_where_it_lists_them_and_else_what_a_user_says(text: str, count: int) -> None:
    turns = turns_in(text)
    assert len(turns) == count
    if (count == 1 and '"content": "a"}]' not in text) or "robot" in text:
        assert turns == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"input": "{messages}{soft_prompt}\n"}, "take {soft_prompt} out of it")],
)
def test_what_cannot_be_a_conversation_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Task(task="t", target=" {completion}", **fields)


def test_bases_without_a_template_and_templates_that_refuse_are_told() -> None:
    form, row = Task(task="t", input="{messages}", target="{completion}").form, conversation(["a"])
    with pytest.raises(ConfigError, match=r"has none; write \{prompt\}"):
        form.encode_inputs(chat_base("byte_level", None), [row], 0)
    with pytest.raises(DataError, match=r"row 1: the chat template of .* refuses the conversation: .*must alternate"):
        form.encode_inputs(chat_base("byte_level", TEMPLATES["gemma"]), [{"messages": 2 * row["messages"]}], 0)
    for wrong in ({"role": "user"}, [{"role": "user", "content": 3}], [{"role": "tool", "content": "x"}]):
        with pytest.raises(DataError, match="messages"):
            form.encode_inputs(chat_base("byte_level", CHATML), [{"messages": wrong}], 0)


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    made = make_base("llama")
    tokenizer = copy.deepcopy(made.tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    return replace(made, tokenizer=tokenizer)


LINES = [
    conversation(["red apple", "good", "blue stone", "bad", "the river", "true"], [1, 0, None]),
    conversation(["what is the place", "no", "a person", "yes"], [0, 1]),
    {"messages": [{"role": "system", "content": "a number"}, *conversation(["green", "thing"])["messages"]]},
]


def alone(base: FrozenBase, prompt_PD: Tensor, messages: list[dict[str, Any]], place: int) -> tuple[Tensor, int]:
    """The summed loss of one answer behind everything that was said before it, by transformers alone; and its tokens."""
    turns = [{"role": message["role"], "content": message["content"]} for message in messages]
    before = base.tokenizer.apply_chat_template(turns[:place], add_generation_prompt=True)["input_ids"]
    behind = base.tokenizer.apply_chat_template(turns[: place + 1])["input_ids"]
    assert behind[: len(before)] == before
    answer = behind[len(before) :]
    embeds = torch.cat([prompt_PD, base.model.get_input_embeddings()(torch.tensor([*before, *answer[:-1]]))])
    logits = base.model(inputs_embeds=embeds[None]).logits[0, -len(answer) :]
    return F.cross_entropy(logits.float(), torch.tensor(answer), reduction="sum"), len(answer)


def test_the_loss_is_that_of_each_answer_of_weight_1_computed_alone(base: FrozenBase) -> None:
    rows = [row for line in LINES for row in conversation_rows(line)]
    assert [row["completion"] for row in rows] == ["good", "true", "yes", "thing"]
    task = Task(task="t", input="{messages}", target="{completion}", data=rows, max_new_tokens=20)
    examples = task.encode(base, rows, 3, split="training")
    assert not examples.truncated
    generator = torch.Generator().manual_seed(0)
    prompt_PD = torch.randn(3, base.width, generator=generator)
    total = sum(map(len, examples.targets))
    batch = [
        Example(0, ids, LANGUAGE_MODELING, target, 1 / total)
        for ids, target in zip(examples.inputs, examples.targets, strict=True)
    ]
    loss, gradient = losses_and_gradient(architecture_of(base), stack_prompts([prompt_PD]), batch)

    leaf = prompt_PD.clone().requires_grad_()
    answers = [
        alone(base, leaf, line["messages"], place)
        for line in LINES
        for place, message in enumerate(line["messages"])
        if message["role"] == "assistant" and message.get("weight", 1) == 1
    ]
    assert sum(count for _, count in answers) == total
    slow = torch.stack([loss for loss, _ in answers]).sum() / total
    slow.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    torch.testing.assert_close(loss[0], slow.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient[0], leaf.grad, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_loses_its_oldest_exchanges_and_then_the_end_of_what_is_said_last(base: FrozenBase) -> None:
    form = Task(task="t", input="{messages}", target="{completion}", max_new_tokens=4).form
    system = {"role": "system", "content": "good"}

    def ids(turns: list[Row], virtual: int = 0) -> list[int]:
        return form.encode_inputs(base, [{"messages": turns}], virtual).ids[0]

    turns = conversation(["red", "no", "blue", "yes", "the stone"])["messages"]
    whole = form.encode_inputs(base, [{"messages": [system, *turns]}], 1)
    assert not whole.truncated
    room = len(whole.ids[0])
    limit = base.context
    assert limit is not None
    for kept in ([system, *turns[2:]], [system, *turns[4:]]):
        size = len(ids(kept))
        cut = form.encode_inputs(base, [{"messages": [system, *turns]}], limit - 4 - size)
        assert cut.truncated == 1
        assert cut.ids[0] == ids(kept)
        assert size < room
    alone = ids([system, *turns[4:]])
    shorter = form.encode_inputs(base, [{"messages": [system, *turns]}], limit - 4 - len(alone) + 1).ids[0]
    assert len(shorter) < len(alone)
    assert base.decode(shorter).startswith("s:goodu:the")
    with pytest.raises(ContextError, match="alone takes"):
        form.encode_inputs(base, [{"messages": [system, *turns]}], limit - 4 - 2)


def test_rows_of_one_conversation_stay_in_one_split() -> None:
    rows = [
        row
        for number in range(60)
        for row in conversation_rows(conversation(["hello", "hi", f"say {number}", f"{number}", "and", "more"]))
    ]
    data = {"train": rows, "group": "conversation"}
    task = Task(task="t", input="{messages}", target="{completion}", data=data)
    held = {split: {row["conversation"] for row in own} for split, own in task.splits.items()}
    if task.folds:
        held = {str(fold): {rows[place]["conversation"] for place in places} for fold, places in enumerate(task.folds)}
    for one in held:
        for other in held:
            assert one == other or not held[one] & held[other]
    assert sum(map(len, held.values())) >= 54
    again = Task(task="t", input="{messages}", target="{completion}", data={**data, "train": rows[::-1]})
    assert {row["conversation"] for row in again.test} == {row["conversation"] for row in task.test}
    with pytest.raises(DataError, match="no field 'customer'"):
        _ = Task(task="t", input="{prompt}", target="{completion}", data={**data, "group": "customer"}).train


def test_a_card_of_before_has_text_in_a_column_of_that_name(base: FrozenBase) -> None:
    form = form_of(base)
    assert form.converses
    assert form.rules(base)["messages"] == "in the chat template"
    assert json.loads(json.dumps(form.rules(base))) == form.rules(base)
