"""`softprompt serve` as a process of its own, with the real engine: what it prints, serves, refuses, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.cli import main
from softprompt.engines.continuous import ContinuousEngine
from softprompt.errors import ConfigError
from softprompt.http import server
from softprompt.http.auth import Keyring
from softprompt.http.opening import Settings
from softprompt.http.server import load
from softprompt.http.state import ServerState
from softprompt.jobs import worker
from softprompt.library.library import Library
from softprompt.registry.records import Origin
from softprompt.serving.offline import Service
from softprompt.serving.which_base import Wishes, choose_base, read_wishes
from tests.commands import Run
from tests.http_server import fill
from tests.models import some_prompt

LONG = 120.0
"""Seconds for what takes a few on a machine that is not busy."""


class Serving:
    """A server that was started by command."""

    def __init__(self, home: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "softprompt.cli", "--home", str(home), "serve", "--port", "0", "--json", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        if not self.line:
            raise AssertionError(self.process.communicate()[1])
        self.row: dict[str, Any] = json.loads(self.line)
        self.url: str = self.row["url"]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Signal it and wait: exit status, and what else it wrote on stdout and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=LONG)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "home"
    with Library.open(folder) as library:
        fill(library, FrozenBase.load(str(base_folder)))
    return folder


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Serving]:
    found = Serving(home, "--dtype", "float32", "--log-level", "info")
    yield found
    code, out, err = found.end()
    assert (code, out) == (0, ""), err
    lines = err.splitlines()
    assert lines[0].startswith("load: 0% /")
    assert lines[1] == f"serving tiny-llama in float32 on {found.url}"
    assert all(" INFO " in line for line in lines[2:]), err
    assert "red green" not in err


def test_the_line_for_machines(served: Serving, base_folder: Path) -> None:
    assert served.line == json.dumps(served.row, separators=(",", ":")) + "\n"
    assert list(served.row) == ["url", "base", "fingerprint", "dtype"]
    assert served.row["dtype"] == "float32"
    assert served.row["base"] == "tiny-llama"
    assert served.row["fingerprint"] == FrozenBase.load(str(base_folder)).fingerprint
    assert served.url.startswith("http://127.0.0.1:")
    assert httpx2.get(f"{served.url}/readyz").json()["fingerprint"] == served.row["fingerprint"]


def test_it_answers_as_predict_does(served: Serving, home: Path) -> None:
    texts = ["red green", "blue apple " * 3, "what is a river", "stone " * 200]
    with Library.open(home) as library, OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        service = Service(library, base=BaseOptions(dtype="float32"))
        for task in ("kind", "kind@1"):
            reply = httpx2.post(f"{served.url}/v1/classify", json={"model": task, "input": texts}, timeout=LONG).json()
            expected = service.predict(texts, task)
            assert [row["label"] for row in reply["data"]] == [one.output for one in expected]
            for row, one in zip(reply["data"], expected, strict=True):
                assert one.scores is not None
                assert row["scores"] == pytest.approx(one.scores, abs=1e-4)
        for one in service.predict(texts[:3], "tell"):
            answer = client.chat.completions.create(model="tell", messages=[{"role": "user", "content": one.text}])
            assert answer.choices[0].message.content == one.output
            stream = client.chat.completions.create(
                model="tell", messages=[{"role": "user", "content": one.text}], stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
            assert "".join(pieces).strip() == one.output


def test_a_seed_makes_an_answer_again_whatever_else_runs(served: Serving) -> None:
    with OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        ask = {"model": "tell", "prompt": "red", "max_tokens": 12, "temperature": 1.5, "seed": 7}
        alone = client.completions.create(**ask).choices[0].text
        among = client.completions.create(**{**ask, "prompt": ["blue", "red", "stone"], "n": 2}).choices
        assert among[2].text == alone
        assert len({choice.text for choice in among}) > 3


def test_a_task_published_later_is_served(served: Serving, home: Path, base_folder: Path) -> None:
    base = FrozenBase.load(str(base_folder))
    with Library.open(home) as library, OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        library.publish(some_prompt(base, "late", seed=9).to_bytes(), base=base.address)
        assert client.completions.create(model="late", prompt="red").model == "late@1"
        assert client.models.retrieve("late").id == "late"


def test_a_first_key_is_asked_for_and_others_may_come_then(tmp_path: Path) -> None:
    """An empty library, with a key; every address; and two interrupts."""
    home = tmp_path / "home"
    with Library.open(home) as library:
        secret = library.registry.keys.create("first", ["read", "predict"]).secret
    served = Serving(home, "--host", "0.0.0.0")
    try:
        assert served.row["base"] == "builtin/tiny"
        url = f"http://127.0.0.1:{served.port}/v1/models"
        assert httpx2.get(url).status_code == 401
        answer = httpx2.get(url, headers={"authorization": f"Bearer {secret}"})
        assert [row["id"] for row in answer.json()["data"]] == ["builtin/tiny"]
        with socket.create_connection(("127.0.0.1", served.port), timeout=LONG) as slow:
            slow.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer "
                + secret.encode()
                + b"\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
            )
            time.sleep(0.5)
            served.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert served.process.poll() is None  # what runs may end
            began = time.monotonic()
            code, _, err = served.end(signal.SIGINT)
            assert code == 130
            assert time.monotonic() - began < 10
            assert "Traceback" not in err
    finally:
        served.process.kill()
        served.process.communicate()


def test_the_example_runs(served: Serving) -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "client.py"
    for arguments in (["kind", "red green"], []):
        done = subprocess.run(
            [sys.executable, example, *(arguments or ["tiny-llama"])],
            capture_output=True, text=True, check=False, env={**os.environ, "OPENAI_BASE_URL": f"{served.url}/v1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "served: kind" in done.stdout
        assert "answer: " in done.stdout


def test_every_code_of_an_error_is_in_the_docs() -> None:
    root = Path(__file__).parent.parent.parent
    page = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    training = ("files.py", "jobs.py")
    sources = [file for file in (root / "src" / "softprompt" / "http").glob("*.py") if file.name not in training]
    codes = {code for file in sources for code in re.findall(r'code="([a-z_]+)"', file.read_text(encoding="utf-8"))}
    assert len(codes) > 12
    assert {code for code in codes if f"`{code}`" not in page} == set()


# refusals, told before anything is loaded


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    (tmp_path / "home").mkdir()

    def call(*arguments: str, code: int = 1) -> str:
        monkeypatch.setattr(sys, "argv", ["softprompt", "--home", str(tmp_path / "home"), "serve", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        answer = capsys.readouterr()
        assert done.value.code == code, answer.err
        assert answer.out == ""
        return " ".join(answer.err.split())

    return call


def test_what_cannot_be_served_is_told(refused: Callable[..., str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot serve on 127.0.0.1 port {port}" in refused("--port", str(port))
    for host in ("0.0.0.0", "::"):
        if host == "::" and not socket.has_ipv6:
            continue
        assert "no API key exists; make one first (`softprompt keys create NAME`)" in refused("--host", host, "--port", "0")
    assert "no address" in refused("--host", "no.such.host.invalid", "--port", "0")
    assert "--log-level 'loud' is unknown; use error, warning, info, debug" in refused("--log-level", "loud")
    assert "no folder '/nowhere'" in refused("--port", "0", "--base", "/nowhere")
    assert "no folder" in refused("--port", "0", "--base", str(tmp_path / "none"))
    refused("--port", "99999", code=2)


def test_an_empty_library_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    _, _, err = Serving(tmp_path / "home", "--dtype", "float32").end()
    assert f"the library in {tmp_path / 'home'} has no prompts: builtin/tiny is served as it is" in err


@pytest.mark.parametrize(("process", "code"), [(1, 128 + signal.SIGTERM), (2, -signal.SIGTERM)])
def test_process_1_of_a_container_can_be_ended_while_it_loads(tmp_path: Path, process: int, code: int) -> None:
    """The kernel gives a signal to process 1 only where that handles it."""
    (tmp_path / "home").mkdir()
    begin = f"import os; os.getpid = lambda: {process}; from softprompt.cli import main; main()"
    command = [sys.executable, "-c", begin, "--home", str(tmp_path / "home"), "serve", "--port", "0"]
    found = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert found.stderr is not None
    while not found.stderr.readline().startswith("load: 0%"):
        assert found.poll() is None
    found.send_signal(signal.SIGTERM)
    _, err = found.communicate(timeout=LONG)
    assert (found.returncode, "Traceback" in err) == (code, False)


def test_a_home_that_is_not_there_is_told_and_not_made(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (["--home", "hmoe"], ["--home", str(tmp_path / "hmoe")]):
        said = refused("--port", "0", *given)
        assert f"there is no library in {tmp_path / 'hmoe'}, which is no folder; name its home with --home" in said
    assert not (tmp_path / "hmoe").exists()


def wishing(library: Library, base: FrozenBase, task: str, serving: dict[str, Any] | None, tenant: str = "default") -> None:
    """A version whose task file had this `serving:` block."""
    origin = Origin(None, {} if serving is None else {"serving": serving}, [])
    library.for_tenant(tenant).publish_all([some_prompt(base, task).to_bytes()], base=base.address, origins=[origin])


def test_what_task_files_say_of_a_server(tmp_path: Path, base_folder: Path, other_folder: Path) -> None:
    base, other = FrozenBase.load(str(base_folder)), FrozenBase.load(str(other_folder))
    with Library.open(tmp_path / "home") as library:
        assert read_wishes(library, str(base_folder)) == Wishes(None, None, ())
        wishing(library, base, "a", None)
        wishing(library, base, "a", {"prompt_cache_size": 1})
        wishing(library, base, "a", {"base_model_device": "cpu", "prompt_storage": str(tmp_path / "home" / "blobs") + "/"})
        wishing(library, base, "b", {"prompt_cache_size": 7, "prompt_storage": "s3://key:secret@prompts/x"}, "acme")
        wishing(library, base, "c", {"prompt_cache_size": 3, "base_model_device": "cpu"})
        wishing(library, other, "d", {"prompt_cache_size": 99, "base_model_device": "cuda:7"})
        wishes = read_wishes(library, str(base_folder))
        assert (wishes.device, wishes.prompts) == ("cpu", 7)
        (warning,) = wishes.warnings
        assert warning.startswith("serving.prompt_storage: b@1 names s3://key:***@prompts/x, and prompts are read from ")
        library.promote("a@2", "production")  # what a bare name means counts
        wishing(library, base, "e", {"base_model_device": "cuda:0"})
        wishing(library, base, "f", {"next_years_key": 1})
        wishes = read_wishes(library, str(base_folder))
        assert (wishes.device, wishes.prompts) == (None, 7)
        said = " ".join(wishes.warnings)
        assert "serving.base_model_device: the task files name cpu (c@1), cuda:0 (e@1)" in said
        assert "serving: the block of f@1 cannot be read" in said


@pytest.mark.parametrize(
    ("serving", "options", "prompts", "device", "said"),
    [
        ({"prompt_cache_size": 5, "base_model_device": "cpu"}, [], 5, "cpu", ""),
        (
            {"prompt_cache_size": 5, "base_model_device": "cpu"},
            ["--prompt-cache-size", "9", "--device", "cpu"],
            9,
            "cpu",
            "",
        ),
        (
            {"base_model_device": "cuda:77"},
            [],
            10_000,
            None,
            "serving.base_model_device: device 'cuda:77' was asked for and",
        ),
        ({"prompt_storage": "s3://x/y"}, [], 10_000, None, "serving.prompt_storage: mood@1 names s3://x/y"),
        ({}, [], 10_000, None, ""),
    ],
)
def test_a_serving_block_is_gone_by_where_options_are_silent(
    refused: Callable[..., str], tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch,
    serving: dict[str, Any], options: list[str], prompts: int, device: str | None, said: str,
) -> None:  # fmt: skip
    with Library.open(tmp_path / "home") as library:
        wishing(library, FrozenBase.load(str(base_folder)), "mood", serving)
    seen: list[Settings] = []

    def stop_here(_: Library, settings: Settings, *_more: object) -> None:
        seen.append(settings)
        raise ConfigError("seen")

    monkeypatch.setattr(server, "load", stop_here)
    answer = refused("--port", "0", *options)
    assert said in answer
    assert ("serving." in answer) == bool(said)
    assert (seen[0].max_prompts, seen[0].base.device) == (prompts, device)


def test_the_base_with_the_most_tasks_is_chosen(tmp_path: Path, base_folder: Path, other_folder: Path) -> None:
    one, other = FrozenBase.load(str(base_folder)), FrozenBase.load(str(other_folder))
    with Library.open(tmp_path / "home") as library:
        assert choose_base(library) == ("builtin/tiny", None)

        def add(task: str, base: FrozenBase, tenant: str = "default") -> None:
            library.for_tenant(tenant).publish(some_prompt(base, task).to_bytes(), base=base.address)

        add("a", one)
        assert choose_base(library) == choose_base(library.for_tenant("acme")) == (str(base_folder), None)
        add("b", other)
        add("c", other, "acme")
        chosen, warning = choose_base(library)
        assert chosen == str(other_folder)
        assert warning is not None
        assert f"{base_folder} (1 task): a;" in warning
        add("a", other)  # only the newest version of a task counts
        assert choose_base(library)[1] is None
        library.registry.delete("a@2")
        library.registry.delete("b@1")
        assert library.registry.bases()[0].tasks == 1


def test_the_engine_keeps_to_the_limits_given(tmp_path: Path, base_folder: Path) -> None:
    base = BaseOptions(source=str(base_folder))
    with Library.open(tmp_path / "home") as library:
        live = load(library, Settings(base=base, engine_rows=3, engine_queue=7, prefix_bytes=1 << 20))
        engine = live.engine
        assert isinstance(engine, ContinuousEngine)
        assert (engine.limits.max_rows, engine.limits.max_waiting) == (3, 7)
        engine.stop()
        live.close()


def test_a_quantised_base_is_served_and_trained_on_by_its_worker(
    home: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Library.open(home) as library:
        base = BaseOptions(
            source=str(base_folder), dtype="float32", device="cpu", quantization="int8", trust_remote_code=True
        )
        settings = Settings(base=base)
        live = load(library, settings)
        assert live.base.quantization == "int8"
        answer = asyncio.run(live.classify("default", "kind", ["red green", "stone"]))
        offline = Service(library, base=BaseOptions(dtype="float32", quantization="int8"))
        expected = offline.predict(["red green", "stone"], "kind")
        for row, one in zip(answer.rows, expected, strict=True):
            assert row.scores == pytest.approx(one.scores, abs=1e-4)
        options: list[str] = []
        monkeypatch.setattr("softprompt.jobs.starter.Starter", lambda *_, **named: options.extend(named["options"]))
        server._training(ServerState(service=live, keyring=Keyring(library.registry)), library, settings)
        assert options == ["--dtype", "float32", "--device", "cpu", "--quantization", "int8", "--trust-remote-code"]
        seen: list[object] = []
        monkeypatch.setattr(worker, "trainer", lambda *given: seen.append(given))
        worker.main(["--home", str(home), "--idle-seconds", "0", *options])
        assert seen == [(replace(base, source=None), 30.0)]
        live.engine.stop()
        live.close()


def test_options_reach_what_is_loaded(
    refused: Callable[..., str], base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ("--port", "0", "--base", str(base_folder))
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (lora / "adapter_model.safetensors").touch()
    assert "quantization 'int9' is unknown" in refused(*base, "--quantization", "int9")
    seen: list[Settings] = []

    def stop_here(_: Library, settings: Settings, *_more: object) -> None:
        seen.append(settings)
        raise ConfigError("seen")

    monkeypatch.setattr(server, "load", stop_here)
    refused(*base, "--quantization", "int8", "--dtype", "bfloat16", "--device", "cpu", "--engine-queue", "7",
            "--base-adapter", str(lora), "--trust-remote-code")  # fmt: skip
    (settings,) = seen
    assert settings.base == BaseOptions(
        source=str(base_folder),
        quantization="int8",
        dtype="bfloat16",
        device="cpu",
        adapter=str(lora),
        trust_remote_code=True,
    )
    assert settings.engine_queue == 7


def test_help_says_what_limits_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "softprompt.cli", "serve", "--help"], capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip
    limits = ("--requests-per-minute", "--prompt-cache-size", "--engine-rows", "--engine-queue")
    for word in ("--port", "--grace", "--require-keys", *limits):
        assert word in done.stdout


def test_what_is_wrong_with_another_engine_is_said(
    home: Path, base_folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is loaded: arguments for an engine that is not meant, none that are JSON, and no vLLM here."""
    from softprompt.vllm import arguments as of_vllm

    Library.open(home).close()
    base = ("--base", base_folder, "--port", "0")

    def told(*arguments: str) -> str:
        done = run("--home", home, "serve", *base, *arguments)
        assert (done.code, done.out) == (1, "")
        return done.err

    assert "--engine-args are vLLM's; add --engine vllm, or leave them out" in told("--engine-args", "{}")
    assert "--engine vllm needs vLLM, which is not installed here" in told("--engine", "vllm")
    assert "--engine-args is no JSON" in told("--engine", "vllm", "--engine-args", "block_size=32")
    assert "--engine-args is list; give an object such as" in told("--engine", "vllm", "--engine-args", "[]")
    assert "--engine-args names 'model', which is said by an option" in told(
        "--engine", "vllm", "--engine-args", '{"model": "x"}'
    )
    monkeypatch.setattr(of_vllm, "find_spec", lambda name: name)
    assert "--quantization is for the engine in this process" in told("--engine", "vllm", "--quantization", "int8")
