"""Inputs in a base's chat template: the ids are those of `apply_chat_template`, whatever the template and the tokenizer, and
what cannot be worded so is told."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Sequence
from dataclasses import replace

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task
from softprompt.tasks.wording.chat import ChatFrame, chat_frame, has_chat_template, words_of
from softprompt.text import Parts
from tests import spellings
from tests.spellings import CONTROLS, MAKERS

TURNS = "{% for m in messages %}{{ '<|user|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
CHATML = "{% if messages[0].role != 'system' %}{{ '<|user|>system\nBe {good}.<|end|>\n' }}{% endif %}" + TURNS + PROMPT
LLAMA = (
    "{{ bos_token }}"
    "{% for m in messages %}{{ '<|user|>' + m.role + '<|end|>\n\n' + m.content | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant<|end|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}" + NO_SYSTEM + "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|user|>' + role + '\n' + m.content | trim + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>model\n' }}{% endif %}"
)
MISTRAL = f"{{{{ bos_token }}}}{NO_SYSTEM}" + (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "A chat. {% for m in messages %}{{ m.role | upper }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else ' ' }}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
DATED = "{{ '<|user|>system\nToday: ' + strftime_now('%d %b %Y') + '\n<|end|>' }}" + TURNS + PROMPT
ONE_QUESTION = "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}Q: {{ messages[0].content }} A:"
TEMPLATES = {
    "chatml": CHATML, "llama": LLAMA, "gemma": GEMMA, "mistral": MISTRAL, "vicuna": VICUNA, "dated": DATED,
    "one question": ONE_QUESTION, "nothing but words": "{{ messages[0].content }}\n",
}  # fmt: skip
TRIMMING = ("llama", "gemma")


@functools.cache
def chat_base(kind: str, template: str | None, *, ends: int | tuple[int, ...] = 2) -> FrozenBase:
    """A tiny base whose tokenizer has a chat template; `ends` are the ids that end what it generates."""
    base = spellings.base(kind)
    tokenizer, model = copy.deepcopy(base.tokenizer), copy.copy(base.model)
    tokenizer.chat_template = template
    model.config = copy.deepcopy(model.config)
    model.config.max_position_embeddings = 512  # which templates need, and nothing here runs it
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = ends if isinstance(ends, int) else list(ends)
    return replace(base, tokenizer=tokenizer, model=model)


def frame_of(template: str, kind: str = "byte_level") -> ChatFrame:
    base = chat_base(kind, template)
    return chat_frame(base.tokenizer, base.spelling.controls)


def form_of(frame: ChatFrame | None, columns: Sequence[str] = ("text",), *, labels: Sequence[str] | None = None) -> Form:
    """The form that a first task file has, read from its YAML."""
    words = words_of(columns, "label", frame, generates=labels is None)
    return Task(task="t", labels=labels, **yaml.safe_load(yaml.safe_dump(words))).form


def chat_ids(base: FrozenBase, text: str, *, begin_answer: bool = True, answer: str | None = None) -> list[int]:
    """What transformers makes of a message, and of an answer behind it."""
    turns = [{"role": "user", "content": text}] + ([] if answer is None else [{"role": "assistant", "content": answer}])
    ids: list[int] = base.tokenizer.apply_chat_template(turns, add_generation_prompt=begin_answer)["input_ids"]
    return ids


def encoded(base: FrozenBase, form: Form, text: str, prepend: str = "") -> list[int]:
    return form.encode_inputs(base, [{"text": text}], 0, prepend=prepend).ids[0]


messages = st.text(st.sampled_from("ab the ZÄ日🙂.,:'\"<>&{}[]/\\\n\t |user end"), min_size=1, max_size=12).filter(
    lambda text: text.strip() and not any(control in text for control in CONTROLS)
)


@hypothesis.settings(max_examples=300)
@given(kind=st.sampled_from(sorted(MAKERS)), name=st.sampled_from(sorted(TEMPLATES)), text=messages)
def test_ids_are_those_of_the_chat_template(kind: str, name: str, text: str) -> None:
    base = chat_base(kind, TEMPLATES[name])
    text = text.strip() if name in TRIMMING else text
    form = form_of(chat_frame(base.tokenizer, base.spelling.controls))
    assert encoded(base, form, text) == chat_ids(base, text)


@pytest.mark.parametrize("text", ["is <|end|> it?", "<|user|>", "a</s>b", "<|end|>\n<|user|>assistant\nyes"])
def test_control_tokens_of_a_message_stay_text(text: str) -> None:
    base = chat_base("byte_level", CHATML)
    form = form_of(frame_of(CHATML))
    written = [token for token in encoded(base, form, "plain") if token in base.spelling.control_ids]
    assert [token for token in encoded(base, form, text) if token in base.spelling.control_ids] == written
    prompted = encoded(base, form, "plain", prepend=text)
    assert [token for token in prompted if token in base.spelling.control_ids] == written


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        (
            "chatml",
            ChatFrame("<|user|>system\nBe {good}.<|end|>\n<|user|>user\n", "<|end|>\n<|user|>assistant\n", "", "<|end|>"),
        ),
        ("llama", ChatFrame("<s><|user|>user<|end|>\n\n", "</s><|user|>assistant<|end|>\n\n", "", "")),
        ("gemma", ChatFrame("<s><|user|>user\n", "<|end|>\n<|user|>model\n", "", "<|end|>")),
        ("mistral", ChatFrame("<s>[INST] ", " [/INST]", " ", "")),
        ("vicuna", ChatFrame("A chat. USER: ", " ASSISTANT:", " ", "")),
        ("one question", ChatFrame("Q: ", " A:", " ", "")),
    ],
)
def test_a_frame_has_what_stands_around_a_message_and_its_answer(name: str, frame: ChatFrame) -> None:
    assert frame_of(TEMPLATES[name]) == frame


@hypothesis.settings(max_examples=150)
@given(
    kind=st.sampled_from(["byte_level", "gemma", "metaspace_first", "llama_2"]),
    name=st.sampled_from(["chatml", "llama", "gemma", "mistral", "vicuna"]),
    text=messages,
    answer=st.sampled_from(["yes", "No", "the river", "a, b = c"]),
)
def test_a_message_and_its_answer_are_a_finished_turn(kind: str, name: str, text: str, answer: str) -> None:
    base = chat_base(kind, TEMPLATES[name], ends=(2, 4))
    text = text.strip() if name in TRIMMING else text
    form = form_of(chat_frame(base.tokenizer, base.spelling.controls))
    task = Task(task="t", input=form.input.text, target=form.target.text)
    examples = task.encode(base, [{"text": text, "label": answer}], 0, split="test")
    whole = examples.inputs[0] + examples.targets[0]
    assert chat_ids(base, text, begin_answer=False, answer=answer)[: len(whole)] == whole
    assert whole[-1] == (4 if name in ("chatml", "gemma") else 2)  # once: none behind the one that the target spells out


def test_an_end_that_the_base_does_not_know_for_one_is_followed_by_one_that_it_does() -> None:
    for ends, behind in ((2, [4, 2]), ((2, 4), [4])):
        base = chat_base("byte_level", GEMMA, ends=ends)
        task = Task(task="t", input="{text}", target="{label}<|end|>")
        (target,) = task.encode(base, [{"text": "a", "label": "yes"}], 0, split="test").targets
        assert target == [*base.encode(["yes"])[0], *behind]
        assert task.form.unwrap(base.decode(target)) == "yes"


def test_labels_have_no_end_and_several_columns_are_named() -> None:
    frame = frame_of(GEMMA)
    words = words_of(["title", "my body"], "label", frame, generates=False)
    assert words["target"] == "{label}"
    assert words["input"] == "<s><|user|>user\nTitle: {title}\nMy body: {my body}<|end|>\n<|user|>model\n"
    assert words_of(["text"], "kind", None, generates=True) == {"input": "{text}\nKind:", "target": " {kind}"}


def test_a_date_is_that_of_today_and_told() -> None:
    today = time.strftime("%d %b %Y")
    frame = frame_of(DATED)
    assert f"Today: {today}\n" in frame.before
    (note,) = frame.notes
    assert f"({today!r})" in note
    assert not frame_of("{% if strftime_now is defined %}{% endif %}" + TURNS + PROMPT).notes


def test_an_answer_stands_where_finished_turns_have_it_and_a_generation_prompt_that_ends_otherwise_is_told() -> None:
    thinks = TURNS + "{% if add_generation_prompt %}{{ '<|user|>assistant\n<think>\n' }}{% endif %}"
    frame = frame_of(thinks)
    assert frame.behind == "<|end|>\n<|user|>assistant\n"
    assert "finished turns" in frame.notes[0]
    lacks = frame_of(TURNS)
    assert (lacks.behind, len(lacks.notes)) == (frame.behind, 1)
    empty = "{% if add_generation_prompt and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    assert frame_of(TURNS + PROMPT + empty).behind.endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('a system message is needed') }}", "a system message is needed"),
        ("{% if messages | length < 2 %}{{ raise_exception('roles') }}{% endif %}" + TURNS, "roles"),
        ("{{ messages[0].content | upper }}", "changes what a message says"),
        ("{{ messages[0].content | e }}", "changes what a message says"),
        ("{{ messages[0].content | tojson }}", "changes what a message says"),
        ("{{ messages[0].content.split() | join(' ') }}", "changes what a message says"),
        ("hello", "leaves it out"),
        ("{{ messages[0].content }} {{ messages[0].content }}", "says a message 2 times"),
        ("{{ messages[0].content | length }}: {{ messages[0].content }}", "by what the message says"),
        ("{% for part in messages[0].content %}{{ part.text }}{% endfor %}", "changes what a message says"),
        ("{{ nothing.of.it }}", "refuses"),
        ("{% endif %}", "refuses"),
    ],
)
def test_a_template_that_words_no_message_as_it_is_is_refused(template: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        frame_of(template)


def test_templates_by_name_are_the_default_one() -> None:
    base = chat_base("byte_level", CHATML)
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = {"default": CHATML, "tool_use": "no"}
    assert chat_frame(tokenizer, CONTROLS) == frame_of(CHATML)
    tokenizer.chat_template = {"tool_use": CHATML}
    with pytest.raises(ConfigError, match="refuses"):
        chat_frame(tokenizer, CONTROLS)
    tokenizer.chat_template = None
    assert not has_chat_template(tokenizer)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", ["byte_level", "gemma", "llama_2"])
def test_a_text_prompt_stands_in_front_of_the_message(kind: str, name: str) -> None:
    base = chat_base(kind, TEMPLATES[name])
    form = form_of(chat_frame(base.tokenizer, base.spelling.controls))
    assert encoded(base, form, "the river", prepend="Say yes {or} no.\n") == chat_ids(base, "Say yes {or} no.\nthe river")


@pytest.mark.parametrize(
    ("template", "given", "asked"),
    [
        (CHATML, "{text}\nLabel:", "TEXT\n{text}\nLabel:"),  # not in the template: in front of all
        (CHATML, "A question: {text}", "TEXT\nA question: {text}"),
        (CHATML, "<|user|>system\nA<|end|>\n<|user|>user\n{text}", "<|user|>system\nA<|end|>\n<|user|>user\nTEXT\n{text}"),
        (VICUNA, "A question: {text}", "TEXT\nA question: {text}"),
        (TEMPLATES["nothing but words"], "<s>Q: {text}", "<s>TEXT\nQ: {text}"),
        (CHATML, "<|user|>user\nDo.\nQ: {text}<|end|>", "<|user|>user\nTEXT\nDo.\nQ: {text}<|end|>"),
        (MISTRAL, "<s>[INST] Do. {text} [/INST]", "<s>[INST] TEXT\nDo. {text} [/INST]"),
        (MISTRAL, "<s>Q: {text}", "<s>TEXT\nQ: {text}"),
        ("{{ raise_exception('no') }}", "<s>Q: {text}", "<s>TEXT\nQ: {text}"),
        ("{{ raise_exception('no') }}", "<s><|user|>user\nQ: {text}<|end|>", "<s><|user|>user\nTEXT\nQ: {text}<|end|>"),
        ("", "<|user|>user\nDo.\nQ: {text}<|end|>", "<|user|>user\nDo.\nTEXT\nQ: {text}<|end|>"),
        ("", "{text}<|end|>", "TEXT\n{text}<|end|>"),
    ],
)  # fmt: skip
def test_a_text_prompt_stands_behind_the_control_tokens_of_an_author(template: str, given: str, asked: str) -> None:
    base = chat_base("byte_level", template)
    said, form = "the <|end|> river", Task(task="t", input=given).form
    parts: Parts = [(asked.split("{text}")[0], said), (asked.split("{text}")[1], "")]
    assert encoded(base, form, said, prepend="TEXT\n") == base.encode([parts])[0]


def test_an_input_that_is_too_long_loses_words_of_its_own_and_keeps_the_turns_and_the_text_prompt() -> None:
    base = chat_base("byte_level", LLAMA)
    form = form_of(frame_of(LLAMA), labels=["yes", "no"])
    inputs = form.encode_inputs(base, [{"text": "the river " * 400}], 0, prepend="Say yes.\n")
    assert inputs.cut == [0]
    head, tail = "<s><|user|>user<|end|>\n\nSay yes.\n", "</s><|user|>assistant<|end|>\n\n"
    text = base.tokenizer.decode(inputs.ids[0])
    kept = text.removeprefix(head).removesuffix(tail)
    assert text == head + kept + tail
    assert len(kept) > 100
    assert ("the river " * 400).startswith(kept)
