"""Those who come from OpenAI's fine-tuning: their files and their code, driven by OpenAI's own client, on a base with a chat
template."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.http.routes.files import file_routes
from softprompt.http.routes.jobs import job_routes
from softprompt.jobs import bank
from softprompt.jobs.jobs import Jobs
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.wording.chat import frame_of
from tests.http_server import Running, serving
from tests.jobs_data import CHAT_TEMPLATE, SHORT, conversation, do_all, lines, pair

TALKS = [
    conversation("red apple", "good", f"and the {number}", f"it is {number}", weights=(number % 2, None), system="say")
    for number in range(12)
]
PAIRS = [pair(f"the stone {number}", f"yes {number}", f"no {number}") for number in range(12)]
RECIPE = {"softprompt": SHORT | {"max_new_tokens": 12}}


@pytest.fixture(scope="module")
def folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("talking") / "tiny-talker"
    shutil.copytree(base_folder, made)
    (made / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return made


@pytest.fixture(scope="module")
def base(folder: Path) -> FrozenBase:
    return FrozenBase.load(BaseOptions(source=str(folder), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def server(folder: Path, base: FrozenBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    library = Library.open(tmp_path_factory.mktemp("from_openai") / "home")
    jobs = job_routes(
        library,
        {base.name: str(folder)},
        frame=frame_of(base),
        context=base.context,
        fingerprint=base.fingerprint,
    )
    with serving(library, base, routers=[file_routes(library), jobs]) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> OpenAI:
    return server.client()


def upload(client: OpenAI, rows: Sequence[Any]) -> str:
    return client.files.create(file=("rows.jsonl", io.BytesIO(lines(rows))), purpose="fine-tune").id


def strictly(kind: Any, found: Any) -> None:
    """The client builds objects of anything; here its own types check them."""
    kind.model_validate_json(json.dumps(found.to_dict()), strict=True)


def test_conversations_become_a_model_that_reads_them_by_the_chat_template(
    client: OpenAI, server: Running, base: FrozenBase
) -> None:
    job = client.fine_tuning.jobs.create(
        model=base.name,
        training_file=upload(client, TALKS),
        validation_file=upload(client, [conversation("red apple", "good", f"the {n}", f"is {n}") for n in range(4)]),
        suffix="talks",
        seed=3,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
        extra_body={"softprompt": {"num_virtual_tokens": 4, "max_new_tokens": 12}},
    )
    strictly(FineTuningJob, job)
    assert (job.method and job.method.type, job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (
        "supervised", 2, "auto",
    )  # fmt: skip
    do_all(server.library)
    done = client.fine_tuning.jobs.retrieve(job.id)
    strictly(FineTuningJob, done)
    assert (done.status, done.fine_tuned_model, done.error) == ("succeeded", "talks@1", None)
    card = server.library.registry.resolve("talks").card
    assert (card.input, card.target, card.labels) == ("{messages}", "{completion}", None)
    for event in client.fine_tuning.jobs.list_events(job.id):
        strictly(FineTuningJobEvent, event)
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    strictly(FineTuningJobCheckpoint, checkpoint)
    assert checkpoint.fine_tuned_model_checkpoint == "talks@1"
    assert checkpoint.metrics.valid_loss is not None
    assert checkpoint.metrics.train_loss is not None

    turns = [*TALKS[1]["messages"][:4]]
    asked = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    answer = client.chat.completions.create(model="talks@1", messages=asked, max_tokens=5)  # type: ignore[arg-type]
    assert answer.usage is not None
    ids = base.tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert answer.usage.prompt_tokens == len(ids)
    raw = client.completions.create(model="talks@1", prompt=base.decode([]) + "x", max_tokens=1)
    assert raw.usage is not None


def test_preferences_are_learnt_by_dpo(client: OpenAI, server: Running, base: FrozenBase) -> None:
    job = client.fine_tuning.jobs.create(
        model=base.name,
        training_file=upload(client, PAIRS),
        suffix="prefers",
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "n_epochs": "auto", "batch_size": 4}}},
        extra_body=RECIPE,
    )
    strictly(FineTuningJob, job)
    assert job.method is not None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert (job.method.dpo.hyperparameters.beta, job.method.dpo.hyperparameters.n_epochs) == (0.3, "auto")
    assert job.method.supervised is None
    do_all(server.library)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.error) == ("succeeded", None)
    card = server.library.registry.resolve("prefers").card
    assert (card.input, card.target) == ("{messages}", "{chosen}")
    assert (card.recipe["objective"], card.recipe["preference_beta"]) == ("preference", 0.3)
    assert {"preferred", "base_preferred"} <= card.metrics.keys()


def test_a_job_goes_on_from_a_model(client: OpenAI, server: Running, base: FrozenBase) -> None:
    first = client.fine_tuning.jobs.create(
        model=base.name, training_file=upload(client, TALKS), suffix="first", extra_body=RECIPE
    )
    do_all(server.library)
    model = client.fine_tuning.jobs.retrieve(first.id).fine_tuned_model
    assert model == "first@1"
    second = client.fine_tuning.jobs.create(
        model=model, training_file=upload(client, PAIRS), suffix="second", method={"type": "dpo"}
    )
    assert second.model == "first@1"
    assert server.library.registry.resolve("first@1").card.num_virtual_tokens == 6
    client.fine_tuning.jobs.cancel(second.id)
    config = Jobs(server.library).get(second.id).config
    assert (config["prompt_tuning_init_prompt"], config["num_virtual_tokens"]) == ("first@1", 6)
    for asked, message in (
        ("nobody@1", "no base 'nobody@1'.*no model to go on from"),
        ("gpt-4o-mini", "no base 'gpt-4o-mini'"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            client.fine_tuning.jobs.create(model=asked, training_file=second.training_file)
    with pytest.raises(openai.BadRequestError, match="both say where to start"):
        client.fine_tuning.jobs.create(
            model=model,
            training_file=second.training_file,
            extra_body={"softprompt": {"prompt_tuning_init_prompt": "first@1"}},
        )


def test_the_same_file_or_the_same_rows_validate_nothing(client: OpenAI, base: FrozenBase) -> None:
    file, again = upload(client, TALKS), upload(client, TALKS)
    for other, message in ((file, "validation_file is training_file"), (again, "has the rows of training_file")):
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            client.fine_tuning.jobs.create(model=base.name, training_file=file, validation_file=other)
        assert caught.value.param == "validation_file"


@pytest.mark.parametrize(
    ("rows", "method", "message"),
    [
        (PAIRS, None, "'supervised', and the rows of training_file are of the shape 'preference'.*use the method 'dpo'"),
        (TALKS, {"type": "dpo"}, "'dpo', and the rows of training_file are of the shape 'chat'"),
        (TALKS, {"type": "reinforcement"}, "no graders here"),
        (TALKS, {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}, "greater than 0"),
        (TALKS, {"type": "supervised", "supervised": {"hyperparameters": {"beta": 1}}}, "unknown key 'beta'"),
    ],
)
def test_methods_that_do_not_go_with_the_rows_are_refused(
    client: OpenAI, base: FrozenBase, rows: Sequence[Any], method: Any, message: str
) -> None:
    fields = {} if method is None else {"method": method}
    with pytest.raises(openai.BadRequestError, match=message):
        client.fine_tuning.jobs.create(model=base.name, training_file=upload(client, rows), **fields)


def wrong(line: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**line, **changes}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function"}]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (wrong(TALKS[0], tools=[{"type": "function"}]), "tools are not trained; leave the row out"),
        (wrong(TALKS[0], functions=[{"name": "f"}]), "functions are not trained"),
        ({"messages": [*TALKS[0]["messages"], CALL]}, "'tool_calls': calls of tools are not trained"),
        ({"messages": [*TALKS[0]["messages"], {"role": "tool", "content": "x"}]}, "the role 'tool', and tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, *TALKS[0]["messages"]]},
            "'input_audio': sounds are not trained",
        ),
        (wrong(PAIRS[0], input={"messages": []}), "input has no message"),
        (wrong(PAIRS[0], input=[]), r"input is \[\]; give an object with messages"),
        (wrong(PAIRS[0], input=PAIRS[0]["input"] | {"tools": [1]}), "tools are not trained"),
        (wrong(PAIRS[0], non_preferred_output=PAIRS[0]["preferred_output"]), "say the same"),
        (wrong(PAIRS[0], preferred_output=[]), "preferred_output has no message; give exactly one"),
        (wrong(PAIRS[0], preferred_output=PAIRS[0]["input"]["messages"]), "preferred_output has user"),
        ({"preferred_output": [], "non_preferred_output": []}, "input is missing"),
    ],
)
def test_lines_that_cannot_be_learnt_are_refused_by_name(client: OpenAI, line: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=f"rows.jsonl, line 1: .*{message}"):
        upload(client, [line])


def test_a_job_that_waits_is_paused_and_resumed(client: OpenAI, server: Running, base: FrozenBase) -> None:
    job = client.fine_tuning.jobs.create(
        model=base.name, training_file=upload(client, TALKS), suffix="waits", extra_body=RECIPE
    )
    with pytest.raises(openai.BadRequestError, match="waits already; there is nothing to resume"):
        client.fine_tuning.jobs.resume(job.id)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    with pytest.raises(openai.BadRequestError, match="is paused already; there is nothing to pause"):
        client.fine_tuning.jobs.pause(job.id)
    do_all(server.library)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    do_all(server.library)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    for verb in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
        with pytest.raises(openai.BadRequestError, match="has succeeded; there is nothing to"):
            verb(job.id)


@pytest.mark.parametrize("others", [False, True])
def test_a_running_job_that_is_paused_ends_as_one_that_was_not(
    client: OpenAI, server: Running, base: FrozenBase, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    file, neighbour = upload(client, TALKS), upload(client, PAIRS)
    settings = {"softprompt": {**RECIPE["softprompt"], "max_steps": 20}}

    def create(name: str, rows: str = file, **fields: Any) -> str:
        return client.fine_tuning.jobs.create(
            model=base.name, training_file=rows, suffix=f"{name}-{others}", extra_body=settings, **fields
        ).id

    whole = create("whole")
    do_all(server.library)
    stopped = create("stopped")
    beside = create("beside", neighbour, method={"type": "dpo"}) if others else whole
    steps: list[int] = []
    take = bank._Training._take

    def pausing(self: Any, event: Any) -> None:
        take(self, event)
        own = [member for member, claim in self._claims.items() if claim.name == stopped]
        if isinstance(event, bank.Stepped) and own and own[0] in event.members:
            steps.append(own[0].run.step)
            if steps[-1] == 7 and client.fine_tuning.jobs.retrieve(stopped).status == "running":
                client.fine_tuning.jobs.pause(stopped)
                self._watch.lost = set(self._watch._jobs) - self._watch._queue.own(self._watch._jobs)

    monkeypatch.setattr(bank._Training, "_take", pausing)
    do_all(server.library)
    assert client.fine_tuning.jobs.retrieve(stopped).status == "paused"
    assert client.fine_tuning.jobs.retrieve(beside).status == "succeeded"
    assert steps == list(range(1, 8))
    assert client.fine_tuning.jobs.resume(stopped).status == "queued"
    do_all(server.library)
    assert client.fine_tuning.jobs.retrieve(stopped).status == "succeeded"
    assert steps == list(range(1, 21))  # it went on from step 7, and began no other one again
    one, other = (SoftPrompt.from_bytes(server.library.read(f"{name}-{others}")).vectors_PD for name in ("whole", "stopped"))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4 if others else 0)
    messages = [event.message for event in client.fine_tuning.jobs.list_events(stopped, limit=100)]
    assert {"paused", "resumed", "a worker goes on with the job"} <= set(messages)
    assert not list(bank.checkpoints_of(server.library).glob("*.checkpoint"))
    found = [job.id for job in client.fine_tuning.jobs.list(limit=2)]
    assert len(found) == len(set(found))
    assert {whole, stopped, beside} <= set(found)
