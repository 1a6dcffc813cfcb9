"""Bodies of answers to the byte: keys, their order, and nulls are what clients know. Only what differs from run to run is
left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.engines.protocol import NO_PROMPT, EmbedJob, Result
from softprompt.http.routes.batches import batch_routes
from softprompt.http.routes.files import file_routes
from softprompt.http.routes.jobs import job_routes
from softprompt.library.library import Library
from softprompt.tasks.answers.kinds import SET
from tests.fake_engine import FakeEngine, FakeTicket
from tests.http_server import LABELS, Running, fill, serving
from tests.jobs_data import do_all, lines
from tests.models import some_prompt
from tests.serving.test_service import with_centroid


class SteadyEngine(FakeEngine):
    """What it says does not depend on the prompt or the input."""

    def _step(self, ticket: FakeTicket) -> Result:
        if not isinstance(ticket.job, EmbedJob):
            ticket.job = replace(ticket.job, prompt=NO_PROMPT, input=(1,))
        return super()._step(ticket)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Running]:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path_factory.mktemp("bodies") / "home") as library:
        fill(library, base)
        library.publish(with_centroid(base, "hues", ["red"], labels=LABELS).to_bytes(), base=base.address)
        sets = {"problem_type": SET, "threshold": 0.5}
        prompt = some_prompt(base, "moderation", labels=("hate", "spam"), metric="micro_f1", recipe=sets)
        library.publish(prompt.to_bytes(), base=base.address)
        routers = [file_routes(library), batch_routes(library), job_routes(library, {base.name: str(base_folder)})]
        with serving(library, base, engine=SteadyEngine(context=base.context), routers=routers) as found:
            yield found


def shown(text: str) -> str:
    """A body with `#` for what differs from run to run: ids, seconds since 1970, fingerprints, scores of a training."""
    for pattern, mark in (
        (r'"(cmpl|chatcmpl|classify|decision|modr|file|ftjob|ftevent|ftckpt)-[0-9a-f]{24}', r'"\1-#'),
        (r'("(?:created|created_at|finished_at)":)\d{9,}', r"\1#"),
        (r'"[0-9a-f]{12}(-[0-9a-f]{12})?"', r'"#"'),
        (r'"[0-9a-f]{32}"|"[0-9a-f]{64}"', r'"##"'),
        (r'"score":-?[0-9.e-]+', r'"score":#'),
        (r'"metrics":\{[^}]*\}', r'"metrics":{#}'),
        (r'"losses":\{[^}]*\}', r'"losses":{#}'),
    ):
        text = re.sub(pattern, mark, text)
    return text


def ask(running: Running, path: str, body: Any = None, method: str | None = None, **options: Any) -> str:
    """What a path answers: to a body where there is one."""
    method = method or ("GET" if body is None else "POST")
    return shown(running.http.request(method, f"{running.url}{path}", json=body, **options).text)


HEAD = '"created":#,"model":"tell@1","system_fingerprint":"#"'
USAGE = '{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}'
TWO = {"model": "tell", "max_tokens": 2}
SAID = [{"role": "user", "content": "red"}]
LENGTH = '"length"'
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def model(name: str, task: str, version: str, versions: str, owner: str = "default", created: str = "#") -> str:
    return (
        f'{{"id":"{name}","object":"model","created":{created},"owned_by":"{owner}","task":{task},"version":{version},'
        f'"versions":{versions},"aliases":{{}},"system_fingerprint":"#"}}'
    )


def events(*chunks: str) -> str:
    return "".join(f"data: {chunk}\n\n" for chunk in (*chunks, "[DONE]"))


def test_health_and_models(running: Running) -> None:
    assert ask(running, "/healthz") == '{"status":"ok"}'
    assert ask(running, "/readyz") == '{"status":"ready","base":"tiny-llama","fingerprint":"##"}'
    models = (
        model("tiny-llama", "null", "null", "[]", "softprompt", "0"),
        model("hues", '"hues"', "1", "[1]"),
        model("kind", '"kind"', "2", "[1,2]"),
        model("moderation", '"moderation"', "1", "[1]"),
        model("tell", '"tell"', "1", "[1]"),
    )
    assert ask(running, "/v1/models") == f'{{"object":"list","data":[{",".join(models)}]}}'
    assert ask(running, "/v1/models/kind@1") == model("kind@1", '"kind"', "1", "[1,2]")


def test_completions(running: Running) -> None:
    body = {**TWO, "prompt": "red"}
    assert ask(running, "/v1/completions", body) == (
        f'{{"id":"cmpl-#","object":"text_completion",{HEAD},"choices":['
        f'{{"index":0,"text":" blue true","logprobs":null,"finish_reason":"length"}}],"usage":{USAGE}}}'
    )
    begin = f'{{"id":"cmpl-#",{HEAD},"object":"text_completion"'
    assert ask(running, "/v1/completions", {**body, "stream": True}) == events(
        begin + ',"choices":[{"index":0,"text":" blue","logprobs":null,"finish_reason":null}]}',
        begin + ',"choices":[{"index":0,"text":" true","logprobs":null,"finish_reason":"length"}]}',
    )

    def choice(word: str, offset: int, finish: str) -> str:
        logprobs = (
            f'{{"tokens":[" {word}"],"token_logprobs":[-0.5],"top_logprobs":[{{" {word}":-0.5}}],"text_offset":[{offset}]}}'
        )
        return f'[{{"index":0,"text":" {word}","logprobs":{logprobs},"finish_reason":{finish}}}]'

    assert ask(running, "/v1/completions", {**body, "logprobs": 1, **STREAM}) == events(
        f'{begin},"usage":null,"choices":{choice("blue", 0, "null")}}}',
        f'{begin},"usage":null,"choices":{choice("true", 5, LENGTH)}}}',
        f'{begin},"usage":{USAGE},"choices":[]}}',
    )


def test_chats(running: Running) -> None:
    body = {**TWO, "messages": SAID, "logprobs": True, "top_logprobs": 1}

    def logprob(word: str) -> str:
        token = f'"token":" {word}","logprob":-0.5,"bytes":{list(f" {word}".encode())}'.replace(", ", ",")
        return f'{{{token},"top_logprobs":[{{{token}}}]}}'

    assert ask(running, "/v1/chat/completions", body) == (
        f'{{"id":"chatcmpl-#","object":"chat.completion",{HEAD},"choices":['
        '{"index":0,"message":{"role":"assistant","content":"blue true","refusal":null},'
        f'"logprobs":{{"content":[{logprob("blue")},{logprob("true")}],"refusal":null}},"finish_reason":"length"}}],'
        f'"usage":{USAGE}}}'
    )
    begin = f'{{"id":"chatcmpl-#",{HEAD},"object":"chat.completion.chunk"'

    def chunk(delta: str, finish: str = "null", logprobs: str = "null") -> str:
        return f',"choices":[{{"index":0,"delta":{delta},"logprobs":{logprobs},"finish_reason":{finish}}}]}}'

    first = chunk('{"role":"assistant","content":""}')
    assert ask(running, "/v1/chat/completions", {**body, **STREAM}) == events(
        f'{begin},"usage":null{first}',
        f'{begin},"usage":null' + chunk('{"content":"blue"}', logprobs=f'{{"content":[{logprob("blue")}],"refusal":null}}'),
        f'{begin},"usage":null' + chunk('{"content":" true"}', logprobs=f'{{"content":[{logprob("true")}],"refusal":null}}'),
        f'{begin},"usage":null' + chunk("{}", '"length"'),
        f'{begin},"usage":{USAGE},"choices":[]}}',
    )
    begin = begin.replace("tell@1", "kind@2")
    assert ask(running, "/v1/chat/completions", {"model": "kind", "messages": SAID, "stream": True}) == events(
        begin + first, begin + chunk('{"content":"the river"}'), begin + chunk("{}", '"stop"')
    )


def test_classifications_and_what_auto_chose(running: Running) -> None:
    answer = (
        '"data":[{"index":0,"label":"the river","scores":{"yes":0.0526350810332277,"no":0.10317048738872257,'
        '"the river":0.8441944315780496}}],"truncated":0,"usage":{"prompt_tokens":1,"completion_tokens":0,"total_tokens":1}'
    )
    begin = '{"id":"classify-#","object":"list","model":"kind@2","system_fingerprint":"#",'
    assert ask(running, "/v1/classify", {"model": "kind", "input": "red"}) == f"{begin}{answer}}}"
    routed = '"routed":{"task":"hues","score":#}'
    auto = ask(running, "/v1/classify", {"model": "auto", "input": "red"})
    assert auto == f"{begin}{answer},{routed}}}".replace("kind@2", "hues@1")
    head = HEAD.replace("tell", "hues")
    body = {**TWO, "model": "auto", "prompt": "red"}
    assert ask(running, "/v1/completions", body).endswith(f'"usage":{USAGE},{routed}}}')
    assert ask(running, "/v1/completions", {**body, "max_tokens": 1, "stream": True}) == events(
        f'{{"id":"cmpl-#",{head},{routed},"object":"text_completion",'
        '"choices":[{"index":0,"text":" blue","logprobs":null,"finish_reason":"length"}]}'
    )


def test_moderations(running: Running) -> None:
    assert ask(running, "/v1/moderations", {"input": "red"}) == (
        '{"id":"modr-#","model":"moderation@1","system_fingerprint":"#","results":[{"flagged":false,'
        '"categories":{"hate":false,"spam":false},'
        '"category_applied_input_types":{"hate":["text"],"spam":["text"]},"category_scores":{"hate":0.4747714427307027,"spam":0.35640544077961955}}],"truncated":0,'
        '"usage":{"prompt_tokens":1,"completion_tokens":0,"total_tokens":1}}'
    )


def test_decisions(running: Running) -> None:
    questions = [
        {"type": "choice", "name": "kind", "instructions": "Which?", "choices": [{"value": one} for one in LABELS]},
        {"type": "predicate", "instructions": "It is red"},
    ]
    assert ask(running, "/v1/decisions", {"model": "kind", "input": "red", "questions": questions[:1]}) == (
        '{"id":"decision-#","object":"decision","model":"kind@2","system_fingerprint":"#","answers":['
        '{"type":"choice","name":"kind","choice":"the river","confidence":0.8441944315780496,"probabilities":['
        '{"value":"yes","probability":0.0526350810332277},{"value":"no","probability":0.10317048738872257},'
        '{"value":"the river","probability":0.8441944315780496}]}],"truncated":false,"usage":{"input_tokens":1,'
        '"input_tokens_details":{"cache_write_tokens":0,"cached_tokens":0},"output_tokens":0,'
        '"output_tokens_details":{"reasoning_tokens":0},"total_tokens":1}}'
    )
    assert ask(running, "/v1/decisions", {"model": "hues", "input": "red", "questions": questions[1:]}) == (
        '{"id":"decision-#","object":"decision","model":"hues@1","system_fingerprint":"#","answers":['
        '{"type":"refusal","name":null,"reason":"task \'hues\' was tuned for its labels alone, and this is a predicate; '
        'ask for a choice among \\"yes\\", \\"no\\", \\"the river\\", or tune it with the question in its task '
        'file (`decision`)"}],"truncated":false,"usage":{"input_tokens":0,'
        '"input_tokens_details":{"cache_write_tokens":0,"cached_tokens":0},"output_tokens":0,'
        '"output_tokens_details":{"reasoning_tokens":0},"total_tokens":0}}'
    )


def test_refusals(running: Running) -> None:
    assert ask(running, "/v1/completions", {"model": "x", "prompt": "red"}) == (
        """{"error": {"message": "no task 'x' for tenant 'default'; known: hues, kind, moderation, tell; """
        'GET /v1/models lists those there are",'
        ' "type": "not_found_error", "param": "model", "code": "model_not_found"}}'
    )


def test_training(running: Running) -> None:
    empty = '{"object":"list","data":[],"has_more":false,"first_id":null,"last_id":null}'
    assert ask(running, "/v1/files") == ask(running, "/v1/fine_tuning/jobs") == empty
    upload = {"files": {"file": ("rows.jsonl", lines())}, "data": {"purpose": "fine-tune"}}
    created = running.http.post(f"{running.url}/v1/files", **upload)  # type: ignore[arg-type]
    assert shown(created.text) == (
        f'{{"id":"file-#","object":"file","bytes":{len(lines())},"created_at":#,"expires_at":null,"filename":"rows.jsonl",'
        '"purpose":"fine-tune","status":"processed","status_details":null}'
    )
    page = f'{{"object":"list","data":[{shown(created.text)}],"has_more":false,"first_id":"file-#","last_id":"file-#"}}'
    assert ask(running, "/v1/files") == page

    file = created.json()["id"]
    body = {
        "model": "tiny-llama",
        "training_file": file,
        "suffix": "c",
        "seed": 3,
        "metadata": {"a": "b"},
        "hyperparameters": {"learning_rate_multiplier": 1e-05},
        "softprompt": {"max_steps": 2, "num_virtual_tokens": 2},
    }
    answer = running.http.post(f"{running.url}/v1/fine_tuning/jobs", json=body)
    usual = '"hyperparameters":{"n_epochs":"auto","batch_size":"auto","learning_rate_multiplier":1e-05}'
    job = (
        '{"id":"ftjob-#","object":"fine_tuning.job","created_at":#,"finished_at":null,"estimated_finish":null,'
        '"status":"queued","model":"tiny-llama","fine_tuned_model":null,"organization_id":"softprompt",'
        f'"training_file":"file-#","validation_file":null,"result_files":[],{usual},'
        f'"method":{{"type":"supervised","supervised":{{{usual}}}}},"seed":3,"trained_tokens":null,"error":null,'
        '"integrations":[],"metadata":{"a":"b"},"user_provided_suffix":"c","softprompt":{"max_steps":2,'
        '"num_virtual_tokens":2,"task":"c","learning_rate_multiplier":1e-05,"seed":3,"input":"{text}\\nLabel:",'
        '"target":" {label}","labels":["bad","good"],"step":0,"outcome":null}}'
    )
    assert shown(answer.text) == job
    path = f"/v1/fine_tuning/jobs/{answer.json()['id']}"
    event = '{"id":"ftevent-#-%d","object":"fine_tuning.job.event","created_at":#,"level":"info","type":"%s","message":"%s",'
    target = event % (3, "message", "target is ' {label}'") + '"data":null}'
    assert ask(running, f"{path}/events?limit=1&after={answer.json()['id'].replace('ftjob', 'ftevent')}-4") == (
        f'{{"object":"list","data":[{target}],"has_more":true,"first_id":"ftevent-#-3","last_id":"ftevent-#-3"}}'
    )
    assert ask(running, f"{path}/checkpoints") == empty

    do_all(running.library)
    outcome = '{"digest":"##","steps":2,"best_step":2,"metric":"accuracy","metrics":{#},"losses":{#},"truncated":0}'
    for old, new in (
        ('"finished_at":null', '"finished_at":#'),
        ("queued", "succeeded"),
        ('"fine_tuned_model":null', '"fine_tuned_model":"c@1"'),
        ('"result_files":[]', '"result_files":["file-#"]'),
        ('"trained_tokens":null', '"trained_tokens":896'),
        ('"step":0,"outcome":null', f'"step":2,"outcome":{outcome}'),
    ):
        job = job.replace(old, new)
    assert ask(running, path) == job
    page = f'{{"object":"list","data":[{job}],"has_more":false,"first_id":"ftjob-#","last_id":"ftjob-#"}}'
    assert ask(running, "/v1/fine_tuning/jobs") == page
    last = event % (2, "metrics", "step 2 of 2: training loss ") + '"data":{"step":2,"total_steps":2,"train_loss":'
    begin, _, data = last.partition("2 of 2: training loss ")
    assert begin.partition(",")[2] in ask(running, f"{path}/events")
    assert data in ask(running, f"{path}/events")
    assert ask(running, f"{path}/checkpoints") == (
        '{"object":"list","data":[{"id":"ftckpt-#","object":"fine_tuning.job.checkpoint","created_at":#,'
        '"fine_tuning_job_id":"ftjob-#","fine_tuned_model_checkpoint":"c@1","step_number":2,"metrics":{#}}],'
        '"has_more":false,"first_id":"ftckpt-#","last_id":"ftckpt-#"}'
    )
    assert ask(running, f"/v1/files/{file}", method="DELETE") == '{"id":"file-#","object":"file","deleted":true}'
