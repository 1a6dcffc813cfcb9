"""The seam: an architecture that the package does not know is trained, evaluated and served as a plain loop over it would,
row by row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import softprompt
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.offline import OfflineEngine
from softprompt.engines.protocol import Embedding, EmbedJob, GenerateJob, Job, Sampling, ScoreJob, Scores, Vectors
from softprompt.engines.scheduler import Limits
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.centroid import centroid_of
from softprompt.model.embedding import single_tokens
from softprompt.tasks.task import Task
from softprompt.training.objectives import LabelTarget
from softprompt.training.steps.bank import Bank
from softprompt.training.steps.forward import Example
from softprompt.training.steps.run import Run
from tests.engine_jobs import Inbox
from tests.models import START, VOCABULARY, make_seq2seq
from tests.sessions import check_step, runs_of, some_examples, train_bank

LABELS = ((5,), (6, 7), (6, 8, 9))


@pytest.fixture(scope="module", params=["t5", "bart"])
def t5(request: pytest.FixtureRequest) -> Architecture:
    return architecture_of(make_seq2seq(request.param))


def alone(t5: Architecture, prompt_PD: torch.Tensor, ids: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """Logits behind the decoder's start and each token of an answer, one row by the plain model."""
    embeds = torch.cat([prompt_PD, t5.base.embed(torch.tensor(list(ids)))])[None]
    decoder = torch.tensor([[START, *answer]])
    logits: torch.Tensor = t5.base.model(inputs_embeds=embeds, decoder_input_ids=decoder, use_cache=False).logits[0]
    return logits


def log_probability(t5: Architecture, prompt_PD: torch.Tensor, ids: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """Of a whole answer."""
    logprobs = alone(t5, prompt_PD, ids, answer[:-1]).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(list(answer))[:, None]).sum()


def plain_loss(t5: Architecture, prompt_PD: torch.Tensor, example: Example) -> torch.Tensor:
    if isinstance(example.target, LabelTarget):
        scores = [log_probability(t5, prompt_PD, example.input, label) for label in example.target.labels]
        return -torch.stack(scores).log_softmax(0)[example.target.choice]
    return -log_probability(t5, prompt_PD, example.input, example.target)


@torch.no_grad()
def plain_continuation(t5: Architecture, prompt_PD: torch.Tensor, ids: Sequence[int], bound: int) -> list[int]:
    answer: list[int] = []
    while len(answer) < bound:
        token = int(alone(t5, prompt_PD, ids, answer)[-1].argmax())
        if token in t5.base.end_ids:
            break
        answer.append(token)
    return answer


def some_prompts(t5: Architecture) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(n, t5.base.width, generator=generator) for n in (5, 2, 0)]


def some_rows() -> list[list[int]]:
    draw = random.Random(1)
    return [[draw.randrange(2, VOCABULARY) for _ in range(count)] for count in (6, 1, 9, 4, 3, 7)]


WHICH = [0, 1, 2, 1, 0, 0]


def test_losses_and_gradients_are_those_of_each_row_alone(t5: Architecture) -> None:
    prompts, rows = some_prompts(t5)[:2], some_rows()
    examples = some_examples(rows, LABELS, labelled=3)
    check_step(t5, prompts, examples, plain_loss, within=1e-4)


def some_task(folder: str, name: str, **fields: object) -> Task:
    words = ["red", "green", "blue", "apple", "stone", "river"]
    rows = [
        f'{{"text": "{word} {other}", "label": "{"yes" if word < other else "no"}"}}' for word in words for other in words
    ]
    with open(f"{folder}/rows.jsonl", "w") as file:
        file.write("\n".join(rows))
    recipe = {"num_virtual_tokens": 5, "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 0.05}
    return Task(task=name, data=f"{folder}/rows.jsonl", input="{text} is", **{**recipe, **fields})


def by_plain_loop(t5: Architecture, run: Run) -> torch.Tensor:
    """The vectors that a run ends with, its rows taken one at a time."""
    bank = Bank([run.start_PD], [run.rule])
    while run.running:
        leaf = bank.vectors_KPD[0].clone().requires_grad_()
        loss = torch.stack([example.weight * plain_loss(t5, leaf, example) for example in run.batch(0)]).sum()
        bank.step([0], torch.autograd.grad(loss, leaf)[0][None], [run.rate])
        run.took_step(float(loss.detach()))
    return bank.prompt(0)


def test_a_bank_is_trained_and_judged_as_a_plain_loop_does(t5: Architecture, tmp_path: object) -> None:
    tasks = [
        some_task(str(tmp_path), "labels", labels=["yes", "no"]),
        some_task(str(tmp_path), "texts", target=" {label}", max_new_tokens=4, num_virtual_tokens=7),
    ]
    runs = runs_of(t5.base, tasks)
    train_bank(t5, runs)
    for run, again in zip(runs, runs_of(t5.base, tasks), strict=True):
        assert (run.failure, run.step, len(run.history)) == (None, 3, 1)
        assert run.best_PD is not None
        torch.testing.assert_close(run.best_PD, by_plain_loop(t5, again), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(run.best_PD, run.start_PD, atol=1e-3)
    trials = [Trial(run.task.form, run.best_PD, run.validation) for run in runs if run.best_PD is not None]
    labelled, generated = result_of(judge(OfflineEngine(t5, token_budget=100), trials))
    examples, vectors_PD = trials[0].examples, trials[0].vectors_PD
    labels = trials[0].form.encode_labels(t5.base)
    with torch.no_grad():
        scores = [[float(log_probability(t5, vectors_PD, ids, label)) for label in labels] for ids in examples.inputs]
    assert labelled.predictions == [["yes", "no"][row.index(max(row))] for row in scores]
    answers = [plain_continuation(t5, trials[1].vectors_PD, ids, 4) for ids in trials[1].examples.inputs]
    assert generated.predictions == [t5.base.decode(ids).strip() for ids in answers]


def test_both_engines_score_and_generate_as_each_row_does_alone(t5: Architecture) -> None:
    prompts, rows = some_prompts(t5), some_rows()
    bounds = [6, 3, 5, 1, 4, 6]
    with torch.no_grad():
        expected = [
            [float(log_probability(t5, prompts[which], ids, label)) for label in LABELS]
            for which, ids in zip(WHICH, rows, strict=True)
        ]
    answers = [plain_continuation(t5, prompts[which], ids, n) for which, ids, n in zip(WHICH, rows, bounds, strict=True)]
    engine = OfflineEngine(t5, token_budget=40)
    scores = result_of(engine.score(prompts, WHICH, rows, [LABELS] * len(rows)))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert result_of(engine.generate(prompts, WHICH, rows, bounds)) == answers

    vectors = [Vectors(str(number), prompt_PD if len(prompt_PD) else None) for number, prompt_PD in enumerate(prompts)]
    jobs: list[Job] = []
    for which, ids, bound in zip(WHICH, rows, bounds, strict=True):
        jobs.append(ScoreJob(vectors[which], tuple(ids), LABELS))
        jobs.append(GenerateJob(vectors[which], tuple(ids), Sampling(max_tokens=bound, logprobs=0)))
        jobs.append(EmbedJob(tuple(ids)))
    inboxes = [Inbox() for _ in jobs]
    serving = ContinuousEngine(t5, Limits(max_rows=3, token_budget=40))
    serving.submit_all(list(zip(jobs, inboxes, strict=True)))
    try:
        for row, ids in enumerate(rows):
            scored, generated, embedded = inboxes[3 * row : 3 * row + 3]
            assert isinstance(scored.last, Scores)
            assert scored.last.values == pytest.approx(expected[row], abs=1e-4)
            assert [token for token in generated.tokens if token not in t5.base.end_ids] == answers[row]
            assert isinstance(embedded.last, Embedding)
            with torch.no_grad():
                states = t5.base.model.get_encoder()(torch.tensor([ids])).last_hidden_state[0]
            assert embedded.last.values == pytest.approx(states.mean(0).tolist(), abs=1e-4)
    finally:
        serving.stop()


def test_texts_have_a_centroid(t5: Architecture) -> None:
    centroid_D = centroid_of(t5, ["red green", "blue"])
    assert centroid_D is not None
    offsets = t5.embed(t5.base.encode(["red green", "blue"])) - t5.embed(single_tokens(t5.base)).mean(0)
    torch.testing.assert_close(centroid_D, torch.nn.functional.normalize(offsets, dim=1).mean(0))


def test_one_room_alone_runs_models() -> None:
    source = Path(softprompt.__file__).parent
    callers = {file.relative_to(source).as_posix() for file in source.rglob("*.py") if ".model(" in file.read_text()}
    apart = {
        "evaluation/inside/attention.py",  # asks for the weights of attention, which nothing else wants
        "exchange/tokens/table.py",  # runs what it has made as another program will
    }
    assert apart <= callers
    assert {file.split("/")[0] for file in callers - apart} - {"http"} == {"model"}  # the server's service has such a verb
