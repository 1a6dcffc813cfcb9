"""Decisions: every option behind one shared input equals each alone, and a task answers the question it is tuned for."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import softprompt
from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.scheduler import Limits
from softprompt.errors import ConfigError, ContextError, DataError
from softprompt.evaluation.statistics.calibration import calibrated, fit_temperature
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.prompt import SoftPrompt
from softprompt.rows.openai_files import MESSAGES
from softprompt.serving.answers import Message
from softprompt.serving.decisions.answers import Decided
from softprompt.serving.decisions.wording import ask_base
from softprompt.serving.service import AsyncService
from softprompt.tasks.answers.decision import Option, Question
from softprompt.tasks.answers.kinds import softmax
from softprompt.tasks.form import IN_TEMPLATE
from softprompt.tasks.task import Task
from softprompt.tasks.wording.conversation import text_of_turns
from tests.models import START, make_base, make_masked, make_seq2seq, some_prefix, some_prompt, tokenizer

RED = Question.of_predicate("It is red", "red")
QUESTIONS = [
    RED,
    Question("choice", "What is it?", (Option("apple"), Option("the river", "Water"), Option("the stone"), Option(True))),
    Question("score", "How good?", (Option("bad"), Option("good"), Option("good good")), "good"),
    Question("choice", "Is it?", (Option("true"), Option(True), Option(False))),
]
SAID = [Message("user", "the red apple is a thing")]


def made(architecture: str, **options: Any) -> FrozenBase:
    return make_seq2seq(architecture) if architecture in ("t5", "bart") else make_base(architecture, **options)


@contextmanager
def service_of(home: Path, base: FrozenBase, *prompts: SoftPrompt, **limits: Any) -> Iterator[AsyncService]:
    engine = ContinuousEngine(architecture_of(base), Limits(**limits))
    with Library.open(home) as library:
        for prompt in prompts:
            library.publish(prompt.to_bytes(), base="b")
        service = AsyncService(library, base, engine)
        try:
            yield service
        finally:
            engine.stop()
            service.close()


def ask(service: AsyncService, model: str, questions: Sequence[Question], messages: Sequence[Message] = SAID) -> Decided:
    asking: Coroutine[Any, Any, Decided] = service.decide("default", model, messages, questions)
    return asyncio.run(asking)


@torch.no_grad()
def alone(base: FrozenBase, shared: Sequence[int], question: Sequence[int], option: Sequence[int]) -> float:
    """One option behind one question behind the input, in a call of the model of its own."""
    ids = [*shared, *question]
    if base.task_type == "SEQ_2_SEQ_LM":
        front, behind = base.frame
        told = {"input_ids": torch.tensor([[*front, *ids, *behind]]), "decoder_input_ids": torch.tensor([[START, *option]])}
        logits_TV, first = base.model(**told).logits[0], 0
    else:
        logits_TV, first = base.model(input_ids=torch.tensor([[*ids, *option]])).logits[0], len(ids) - 1
    logprobs_TV = logits_TV.log_softmax(-1)
    return math.fsum(float(logprobs_TV[first + place, token]) for place, token in enumerate(option))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral", "gemma2", "t5", "bart"])
def test_each_question_and_option_equals_it_alone(architecture: str, tmp_path: Path) -> None:
    base = made(architecture)
    asked = ask_base(base, SAID[0].content, QUESTIONS)
    with service_of(tmp_path, base) as service:
        decided = ask(service, base.name, QUESTIONS)
        for place, (question, answer) in enumerate(zip(QUESTIONS, decided.answers, strict=True)):
            scores = [alone(base, asked.shared, asked.questions[place], option) for option in asked.options[place]]
            assert answer.probabilities == pytest.approx(softmax(scores), abs=2e-5)
            (single,) = ask(service, base.name, [question]).answers
            assert single.probabilities == pytest.approx(answer.probabilities, abs=2e-5)
        assert [answer.refusal for answer in decided.answers] == [None] * 4
        told = [len(asked.shared), *map(len, asked.questions)]
        assert decided.head.input_tokens == sum(told)
        assert decided.head.model == base.name


def test_the_input_is_run_once_and_all_questions_in_one_pass(tmp_path: Path) -> None:
    base = make_base("llama")
    with service_of(tmp_path, base) as service:
        before = service.engine.status()
        ask(service, base.name, QUESTIONS)
        after = service.engine.status()
        assert (after.steps - before.steps, after.prefix_misses - before.prefix_misses) == (1, 1)
        ask(service, base.name, QUESTIONS)  # the same input again is there already
        assert service.engine.status().prefix_misses == after.prefix_misses
        ask(service, base.name, QUESTIONS, [Message("user", "another")])
        assert service.engine.status().prefix_misses == after.prefix_misses + 1


def test_more_questions_than_may_wait_come_in_parts(tmp_path: Path) -> None:
    base = make_base("llama")
    with service_of(tmp_path / "one", base) as service:
        whole = ask(service, base.name, QUESTIONS * 5)
    with service_of(tmp_path / "two", base, max_waiting=3) as service:
        parts = ask(service, base.name, QUESTIONS * 5)
    for one, two in zip(whole.answers, parts.answers, strict=True):
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-5)


def test_a_chat_template_is_put_around_the_message(tmp_path: Path) -> None:
    base = make_base("llama")
    own = copy.deepcopy(tokenizer())
    own.chat_template = "{% for m in messages %}<end>{{ m.role }}: {{ m.content | trim }}{% endfor %}<end>a:"
    base = replace(base, tokenizer=own)
    said = "a <end> of it"  # a user's words are no control tokens
    asked = ask_base(base, said, QUESTIONS[:2])
    end = base.tokenizer.convert_tokens_to_ids("<end>")
    assert base.decode(asked.shared) == "user: a <end> of it\n\n"
    assert [asked.shared.count(end), *(ids.count(end) for ids in asked.questions)] == [1, 1, 1]
    assert base.decode(asked.questions[0]).endswith("yes or no.a:")
    assert [base.decode(option) for option in asked.options[0]] == ["yes", "no"]
    with service_of(tmp_path, base) as service:
        (answer,) = ask(service, base.name, QUESTIONS[:1], [Message("user", said)]).answers
    scores = [alone(base, asked.shared, asked.questions[0], option) for option in asked.options[0]]
    assert answer.probabilities == pytest.approx(softmax(scores), abs=2e-5)
    base.tokenizer.chat_template = "{{ messages[0].content | upper }}"
    with pytest.raises(DataError, match="does not say a user's message once, as it is"):
        ask_base(base, said, QUESTIONS[:1])


def test_a_conversation_is_read_as_its_transcript(tmp_path: Path) -> None:
    base = make_base("llama")
    talk = [Message("user", "red"), Message("assistant", "blue"), Message("user", "green")]
    with service_of(tmp_path, base, some_prompt(base, "kind", labels=("yes", "no"))) as service:
        one = ask(service, base.name, [RED], talk)
        two = ask(service, base.name, [RED], [Message("user", "user: red\nassistant: blue\nuser: green")])
        assert one.answers == two.answers
        # A task reads of it what it reads of a chat.
        pick = Question("choice", "Which?", (Option("yes"), Option("no")))
        assert ask(service, "kind", [pick], talk).answers == ask(service, "kind", [pick], talk[-1:]).answers
        with pytest.raises(DataError, match="the last message is of the role 'assistant'"):
            ask(service, "kind", [pick], talk[:2])


def test_what_does_not_fit_is_refused_and_the_others_are_answered(tmp_path: Path) -> None:
    base = make_base("llama")
    long = Question.of_predicate("red " * 60, "long")
    with service_of(tmp_path, base) as service:
        first, second, third = ask(service, base.name, [RED, long, RED], [Message("user", "red " * 20)]).answers
        assert first.refusal is third.refusal is None
        assert "does not fit the context" in str(second.refusal)
        assert second.probabilities == ()
        with pytest.raises(ContextError, match="shorten the input"):
            ask(service, base.name, [RED, long], [Message("user", "red " * 90)])


def test_options_that_are_read_alike_and_bases_that_write_no_text_are_refused(tmp_path: Path) -> None:
    base = make_base("llama")
    with service_of(tmp_path / "one", base) as service:
        same = Question("choice", "Which?", (Option("\u00e9"), Option("e")))
        assert ask(service, base.name, [same]).answers[0].refusal is None
        # One begins another: both end, and the longer can win.
        begun = Question("choice", "Which?", (Option("red"), Option("red red")))
        asked = ask_base(base, "the", [begun])
        assert all(option[-1] == base.end_id for option in asked.options[0])
        with pytest.raises(DataError, match="the input is empty"):
            ask(service, base.name, [RED], [Message("user", " ")])
    masked = make_masked("bert")
    with (
        service_of(tmp_path / "two", masked) as service,
        pytest.raises(ConfigError, match="never tuned for these questions"),
    ):
        ask(service, masked.name, [RED])


# tasks


def some(base: FrozenBase, task: str, labels: tuple[str, ...], **recipe: Any) -> SoftPrompt:
    return some_prompt(
        base, task, labels=labels, input="{text} is", recipe={"answers": "as they stand behind an input"} | recipe
    )


def test_a_task_answers_by_its_labels_at_its_temperature(tmp_path: Path) -> None:
    base = make_base("llama")
    decision = {"type": "predicate", "instructions": "It is red"}
    level = {"type": "score", "instructions": "How good?", "levels": [{"label": "bad"}, {"label": "good"}]}
    truth = {"type": "choice", "instructions": "Is it?", "choices": [{"value": True}, {"value": False}]}
    prompts = [
        some(base, "plain", ("yes", "no", "the river")),
        some(base, "warm", ("yes", "no", "the river"), temperature=2.5),
        some(base, "red", ("yes", "no"), temperature=2.0, decision=decision),
        some(base, "good", ("bad", "good"), temperature=0.5, decision=level),
        some(base, "truth", ("true", "false"), decision=truth),
        some_prompt(base, "tell", metric="exact_match"),
    ]
    with service_of(tmp_path, base, *prompts) as service:

        def scores(task: str) -> dict[str, float]:
            classified = asyncio.run(service.classify("default", task, [SAID[0].content]))
            return classified.rows[0].scores

        pick = Question("choice", "Which?", (Option("no"), Option("the river"), Option("yes")))
        own = scores("plain")
        (answer,) = ask(service, "plain", [pick]).answers
        assert answer.probabilities == pytest.approx([own["no"], own["the river"], own["yes"]], abs=1e-6)
        assert answer.choice == max(own, key=own.__getitem__)
        # The same vectors with a temperature: classify is as it was, a decision is calibrated.
        assert scores("warm") == pytest.approx(own, abs=1e-6)
        (warmer,) = ask(service, "warm", [pick]).answers
        logits = [math.log(own[label]) for label in ("no", "the river", "yes")]
        assert warmer.probabilities == pytest.approx(calibrated(logits, 2.5), abs=1e-5)
        assert warmer.choice == answer.choice
        assert warmer.confidence < answer.confidence
        # A predicate and a score that tasks are tuned for.
        own = scores("red")
        (answer,) = ask(service, "red", [RED]).answers
        assert answer.probabilities == pytest.approx(calibrated([math.log(own["yes"]), math.log(own["no"])], 2.0), abs=1e-5)
        own = scores("good")
        (answer,) = ask(service, "good", [Question("score", "How  good?", (Option("bad"), Option("good")))]).answers
        assert answer.score == pytest.approx(calibrated([math.log(own["bad"]), math.log(own["good"])], 0.5)[1], abs=1e-5)
        own = scores("truth")
        (answer,) = ask(service, "truth", [Question("choice", "Is it?", (Option(False), Option(True)))]).answers
        assert answer.probabilities == pytest.approx([own["false"], own["true"]], abs=1e-6)
        assert answer.choice is (own["true"] > own["false"])
        # A question that a task was not tuned for is refused by name, and the others are answered.
        decided = ask(service, "red", [RED, Question.of_predicate("It is blue"), pick])
        assert decided.answers[0].refusal is None
        assert "tuned to be asked 'It is red'" in str(decided.answers[1].refusal)
        assert "its question is a predicate, and this is a choice" in str(decided.answers[2].refusal)
        assert decided.head.input_tokens == ask(service, "red", [RED]).head.input_tokens
        only = ask(service, "plain", [RED, Question("choice", "Which?", (Option("yes"), Option("no")))])
        assert "ask for a choice among" in str(only.answers[0].refusal)
        assert 'chooses among "yes", "no", "the river"' in str(only.answers[1].refusal)
        assert only.head.input_tokens == 0
        strings = Question("choice", "Is it?", (Option("false"), Option("true")))
        assert "true, false" in str(ask(service, "truth", [strings]).answers[0].refusal)
        with pytest.raises(ConfigError, match="task 'tell' generates text"):
            ask(service, "tell", [pick])


def test_a_prefix_answers_too(tmp_path: Path) -> None:
    base = make_base("llama")
    pick = Question("choice", "Which?", (Option("no"), Option("yes")))
    with service_of(tmp_path, base, some_prefix(base, "kind", labels=("yes", "no"))) as service:
        own = asyncio.run(service.classify("default", "kind", [SAID[0].content])).rows[0].scores
        (answer,) = ask(service, "kind", [pick]).answers
        assert answer.probabilities == pytest.approx([own["no"], own["yes"]], abs=1e-6)


def test_a_prompt_is_tuned_for_a_question_and_answers_it(base_folder: Path, tmp_path: Path) -> None:
    """From a task file with a question to a calibrated answer."""
    words = ["red", "green", "blue", "apple", "stone", "river"]
    rows = [{"text": f"{one} {other} {n}", "label": one < other} for one in words for other in words for n in range(4)]
    recipe: dict[str, Any] = {"num_virtual_tokens": 5, "max_steps": 6, "per_device_train_batch_size": 8}
    decision = {"type": "predicate", "instructions": "They are in order."}
    task = Task(task="order", base=str(base_folder), data=rows, input="{text} is", decision=decision, **recipe)
    with Library.open(tmp_path / "home") as library:
        softprompt.train(task, library=library)
        card = library.registry.resolve("order").card
        assert card.labels == ("yes", "no")
        assert card.recipe["decision"] == decision
        base = FrozenBase.load(str(base_folder))
        engine = ContinuousEngine(architecture_of(base))
        service = AsyncService(library, base, engine)
        try:
            asked = Question.of_predicate("They are in order.")
            (answer,) = ask(service, "order", [asked], [Message("user", "apple blue 1")]).answers
            own = asyncio.run(service.classify("default", "order", ["apple blue 1"])).rows[0].scores
            held = asyncio.run(service.classify("default", "order", [row["text"] for row in task.validation])).rows
        finally:
            engine.stop()
            service.close()
        # The temperature is the one that fits the validation rows of the prompt that was kept.
        right = [["yes", "no"].index(task.form.answer(row, "a row")) for row in task.validation]
        fitted = fit_temperature([[row.scores["yes"], row.scores["no"]] for row in held], right)
        assert card.recipe["temperature"] == pytest.approx(fitted, rel=1e-2)
        logits = [math.log(own["yes"]), math.log(own["no"])]
        assert answer.probabilities == pytest.approx(calibrated(logits, card.recipe["temperature"]), abs=1e-5)


def test_a_task_of_conversations_reads_all_messages_with_their_roles(tmp_path: Path) -> None:
    own = copy.deepcopy(tokenizer())
    own.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<end>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    base = FrozenBase.wrap(make_base("llama").model, own, name="random/llama")
    prompt = some_prompt(base, "talk", input="{messages}", labels=("yes", "no"), recipe={MESSAGES: IN_TEMPLATE})
    messages = [Message("user", "the river is red"), Message("assistant", "no"), Message("user", "what is it")]
    question = Question("choice", "any", (Option("yes"), Option("no")))
    with service_of(tmp_path, base, prompt) as service:
        turns = text_of_turns([{"role": one.role, "content": one.content} for one in messages])
        classified = asyncio.run(service.classify("default", "talk", [turns, "what is it"]))
        (answer,) = ask(service, "talk", [question], messages).answers
        assert answer.probabilities == pytest.approx([*classified.rows[0].scores.values()], abs=1e-5)
        assert answer.probabilities != pytest.approx([*classified.rows[1].scores.values()], abs=1e-3)
