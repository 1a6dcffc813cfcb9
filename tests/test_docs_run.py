"""What the documents show is run as it stands: every block of Python, and every command as far as its names go."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from fastapi import APIRouter
from openai import OpenAI
from typer.core import TyperGroup

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.cli.app import app
from softprompt.engines.continuous import ContinuousEngine
from softprompt.http.routes.batches import batch_routes
from softprompt.http.routes.files import file_routes
from softprompt.http.routes.jobs import job_routes
from softprompt.jobs.lock import WorkerLock
from softprompt.jobs.starter import Starter
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.answers.kinds import SET
from tests.http_server import serving
from tests.jobs_data import ROWS, conversation, lines, pair
from tests.library_data import make_prompt, scored
from tests.models import some_prompt

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FOR_WORKERS = {ROOT / "docs" / "design.md"}
"""Says how the project is built, not how it is used."""
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted({*ROOT.glob("docs/*.md")} - FOR_WORKERS)]

ADDRESS = "http://127.0.0.1:8000/v1"
"""Where the documents say that a server is. Tests have theirs on a free port: this text alone is replaced in a block."""

CPU = BaseOptions(source="builtin/tiny", dtype="float32", device="cpu")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    page: Path
    language: str
    heading: str
    line: int
    """The first line of its text, counted from 1."""
    text: str

    @property
    def name(self) -> str:
        """The document, and the heading that the block stands under."""
        return f"{self.page.name}: {self.heading}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    heading, language, first, inside = "", "", 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not first and (opened := re.fullmatch(r" *```+ *(\w*).*\n", line)):
            language, first, inside = opened[1].lower(), number + 1, []
        elif first and re.fullmatch(r" *```+ *\n?", line):
            yield Block(page, language, heading, first, "".join(inside))
            first = 0
        elif first:
            inside.append(line)
        elif title := re.match(r"#+ +(.*?) *$", line):
            heading = title[1].strip("`")
    assert not first, f"{page.name}: the block at line {first} has no end"


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


# Python


class Scene:
    """What a block finds when it is run in `folder`: files, a library, perhaps a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_task(self, name: str, rows: list[dict[str, str]], labels: list[str]) -> None:
        """A task file beside its rows, with a recipe of a second."""
        self.write_rows(f"{name}.jsonl", rows)
        task = {"base": "builtin/tiny", "data": f"{name}.jsonl", "labels": labels, "max_steps": 4, "learning_rate": 0.3}
        small = {"num_virtual_tokens": 6, "per_device_train_batch_size": 4, "prompt_tuning_init": "LABELS"}
        (self.folder / f"{name}.yaml").write_text(json.dumps(task | small), encoding="utf-8")

    def write_rows(self, name: str, rows: list[dict[str, str]]) -> None:
        """A file of rows."""
        (self.folder / name).write_bytes(lines(rows))

    def run(self, block: Block, address: str | None = None) -> dict[str, Any]:
        """Execute a block, its text as it stands but for the address of the server; what it leaves behind."""
        text = block.text
        if address is not None:
            assert text.count(ADDRESS) == 1, f"{block.name}: the block names no server at {ADDRESS}"
            text = text.replace(ADDRESS, address)
        names: dict[str, Any] = {"__name__": "__main__"}
        try:
            # Empty lines before it, so that a traceback names the line of the document.
            exec(compile("\n" * (block.line - 1) + text, str(block.page), "exec"), names)
        finally:
            for value in list(names.values()):
                if isinstance(value, OpenAI):
                    value.close()
        return names

    @contextmanager
    def server(self, library: Library) -> Iterator[str]:
        """A server on a port of this machine, with the real engine, and with a worker of its own for jobs."""
        base = FrozenBase.load(CPU)
        starter = Starter(library, options=[*CPU.arguments(), "--idle-seconds", "0.1"])
        jobs = job_routes(library, {"builtin/tiny": "builtin/tiny"}, starter=starter)
        routers = [file_routes(library), batch_routes(library), jobs]
        with serving(library, base, engine=ContinuousEngine(architecture_of(base)), routers=routers) as running:
            yield f"{running.url}/v1"
        lock = WorkerLock(library.home)
        assert lock.acquire(patience=30), "the worker ends by itself"
        lock.release()


def readme(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    asked = [{"text": f"what is {row['text']}", "label": "entity"} for row in ROWS]
    scene.write_task("trec6", asked + ROWS, ["entity", "good", "bad"])
    scene.write_task("reviews", ROWS, ["good", "bad"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the prompt has barely moved")  # in four steps
        names = scene.run(block)
    library = names["library"]
    assert library.home == scene.folder / "my-home"
    assert [one.version for one in names["tuned"]] == [1, 1]
    assert [version.number for version in library.registry.versions("trec6")] == [1, 2]
    assert len(names["swept"].candidates) == 4
    assert [(one.task, one.version) for one in names["answers"]] == [("trec6", 2), ("reviews", 1)]
    lines = printed().splitlines()
    assert lines[0].startswith("{'task': 'trec6', 'version': 1, ")
    assert lines[2].startswith("trec6 2 accuracy ")
    assert lines[3].startswith("reviews 1 accuracy ")
    assert lines[4].startswith("['")
    library.close()


def from_python(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    with Library.open("softprompt-home") as library:
        library.publish(make_prompt(metrics=scored(0.7)), base="builtin/tiny")
        library.promote("trec6@1")
        scene.run(block)
        assert library.registry.resolve("trec6-copy").ref == "trec6-copy@1"
    assert printed().startswith("trec6@1 accuracy {'rows': 500, 'value': 0.7} ")
    assert (scene.folder / "exported" / "trec6@1.safetensors").is_file()


def at_the_edge(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    from softprompt.exchange.bundle import bundle

    with Library.open("softprompt-home") as library:
        library.publish(make_prompt(labels=("yes", "no")), base="builtin/tiny")
        bundle(library, ["trec6"], "edge.bundle")
    scene.run(block)
    assert printed() == "trec6 {text} ['yes', 'no'] 2 4\n"


def answered(scene: Scene, block: Block, task: str, labels: tuple[str, ...]) -> None:
    """Run a block with a server that has a prompt of a task with labels."""
    base = FrozenBase.load(CPU)
    vectors_PD = base.embed(base.model.get_input_embeddings().weight.new_tensor([5, 6, 7]).long()).detach().float()
    card = Card(
        task=task, base="builtin/tiny", fingerprint=base.fingerprint, num_virtual_tokens=3, token_dim=base.width,
        input="Question: {text}\nType:", labels=labels, metrics=scored(0.7),
    )  # fmt: skip
    with Library.open("softprompt-home") as library:
        library.publish(SoftPrompt(vectors_PD, card).to_bytes(), base="builtin/tiny")
        with scene.server(library) as address:
            scene.run(block, address)


def ask(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    answered(scene, block, "trec6", ("person", "number"))
    assert re.match(r"(person|number) trec6@1 \S+\n", printed())


def start(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    answered(scene, block, "tickets", ("billing", "technical"))
    assert re.fullmatch(r"(billing|technical) tickets@1\n", printed())


def decisions(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    with Library.open("softprompt-home", create=True) as library, scene.server(library) as address:
        scene.run(block, address)
    assert re.fullmatch(r"0\.\d+(e-\d+)? (billing|support) 0\.\d+ \d\.\d+(e-\d+)?\n", printed())


def batches(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    body = {"model": "builtin/tiny", "messages": [{"role": "user", "content": "what a film"}], "max_tokens": 2}
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (scene.folder / "requests.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    with Library.open("softprompt-home", create=True) as library, scene.server(library) as address:
        scene.run(block, address)
    answer = json.loads(printed())
    assert (answer["custom_id"], answer["response"]["status_code"]) == ("one", 200)


def moderation(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    base = FrozenBase.load(CPU)
    recipe = {"problem_type": SET, "threshold": 0.5}
    prompt = some_prompt(base, "moderation", labels=("hate", "spam"), metric="micro_f1", recipe=recipe)
    with Library.open("softprompt-home") as library:
        library.publish(prompt.to_bytes(), base="builtin/tiny")
        with scene.server(library) as address:
            scene.run(block, address)
    assert printed() in ("True\n", "False\n")


def tuning(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    scene.write_rows("rows.jsonl", ROWS)
    with Library.open("softprompt-home") as library, scene.server(library) as address:
        scene.run(block, address)
    lines = printed().splitlines()
    assert "started" in lines
    assert lines[-2] == "succeeded sentiment@1"
    assert lines[-1] in ("good", "bad")


TALKS = [
    conversation(f"ticket {n}: the parcel is late", "where to?", "France", f"desk {n}", weights=(0, 1), system="You route.")
    for n in range(12)
]


def from_openai(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    (scene.folder / "support.jsonl").write_bytes(lines(TALKS))
    (scene.folder / "held_out.jsonl").write_bytes(lines([conversation(f"parcel {n}?", f"desk {n}") for n in range(4)]))
    with Library.open("softprompt-home") as library, scene.server(library) as address:
        scene.run(block, address)
    said = printed().splitlines()
    assert "published support@1" in said
    at = said.index("succeeded support@1")
    assert re.fullmatch(r"support@1 \d+ \d+\.\d+", said[at - 1])
    assert said[at + 1 :], "the model answers"


def preferences(scene: Scene, block: Block, printed: Callable[[], str]) -> None:
    (scene.folder / "pairs.jsonl").write_bytes(lines([pair(f"parcel {n}?", f"please {n}", f"no {n}") for n in range(12)]))
    with Library.open("softprompt-home") as library:
        library.publish(make_prompt("support"), base="builtin/tiny")
        with serving(library, FrozenBase.load(CPU), routers=[*_training(library)]) as running:
            scene.run(block, f"{running.url}/v1")
    assert printed() == "paused\nqueued\ncancelled dpo 0.1\n"


def _training(library: Library) -> Iterator[APIRouter]:
    """The routes for jobs, and nobody who does them."""
    yield file_routes(library)
    yield job_routes(library, {"builtin/tiny": "builtin/tiny"})


SCENES: dict[str, Callable[[Scene, Block, Callable[[], str]], None]] = {
    "README.md: From Python": readme,
    "from_openai.md: Change the address": from_openai,
    "from_openai.md: Preferences": preferences,
    "library.md: Bundles for devices at the edge": at_the_edge,
    "library.md: From Python": from_python,
    "serving.md: Ask": ask,
    "serving.md: Batches": batches,
    "serving.md: Decisions": decisions,
    "serving.md: Moderation": moderation,
    "start.md: 4. Use it": start,
    "tuning.md: Training over HTTP": tuning,
}
"""What runs a block, by the name of the block."""

PYTHON = [block for block in BLOCKS if block.language in ("python", "py", "python3", "pycon")]


def test_every_block_of_python_is_run_and_every_scene_has_its_block() -> None:
    assert sorted(block.name for block in PYTHON) == sorted(SCENES)
    written = {page: len(re.findall(r"(?m)^ *```+ *py", page.read_text(encoding="utf-8"))) for page in PAGES}
    assert {page: sum(block.page == page for block in PYTHON) for page in PAGES} == written


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_a_block_of_python_runs(
    block: Block, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SOFTPROMPT_HOME")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    SCENES[block.name](Scene(folder), block, lambda: capsys.readouterr().out)


# Commands


GENERATED = ROOT / "docs" / "commands.md"
SHELL = [block for block in BLOCKS if block.language in ("console", "sh", "bash", "shell") and block.page != GENERATED]
UsageError: Any = typer.BadParameter.__base__

OF_OTHERS = {
    *("--multi_gpu", "--nproc_per_node", "--num_machines", "--machine_rank", "--main_process_ip"),
    *(
        "--enable-prompt-adapter",
        "--prompt-adapters",
        "--max-prompt-adapters",
        "--max-prompt-adapter-token",
        "--max-num-seqs",
    ),
    *("--adapter-cache", "--prefix-store-path", "--model", "--summary", "--block-size", "--api-server-count", "--api-key"),
    *("--enable-prompt-embeds", "--hf-overrides", "--logprobs-mode", "--max-logprobs", "--middleware", "--tokenizer"),
    *("--served-model-name", "--build-arg", "--install-completion"),
    *("--worker-extension-cls", "--enable-elastic-ep", "--enable-log-requests"),
}
"""Options of launchers, of other servers, of benchmarks and of the command line's library, which documents name too."""


def options_of(command: Any) -> set[str]:
    """The options of a command and of all below it."""
    own = {flag for parameter in command.params for flag in [*parameter.opts, *parameter.secondary_opts]}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


def unfenced(page: Path) -> str:
    """The running text of a page."""
    return re.sub(r"(?ms)^ *```.*?^ *``` *$", "", page.read_text(encoding="utf-8"))


def lines_of(block: Block) -> Iterator[str]:
    """What is typed, line by line: of a console what stands behind its sign, of a script all of it."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if block.language != "console":
            yield line
        elif line.startswith("$ "):
            yield line[2:]


def calls_in(line: str) -> Iterator[list[str]]:
    """The arguments of each call of `softprompt` in a line of a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set("|&;()"):
            while words and re.fullmatch(r"\w+=.*", words[0]):  # variables for this call alone
                words = words[1:]
            if words[:1] == ["softprompt"]:
                yield words[1:]
            elif "softprompt.cli" in words:
                yield words[words.index("softprompt.cli") + 1 :]
            words = []
        else:
            words.append(word)


def parse(arguments: list[str]) -> str:
    """The command that arguments name, with all of them understood; nothing is run.

    Raises:
        UsageError: no such command or option, or a value that it does not take.
    """
    if changes := {"--install-completion", "--show-completion"} & set(arguments):
        raise AssertionError(f"{min(changes)} acts as it is parsed, on the files of whoever tests; name it in words")
    command: Any = typer.main.get_command(app)
    path, left, context = ["softprompt"], list(arguments), None
    while True:
        context = command.make_context(path[-1], left, parent=context)
        if not isinstance(command, TyperGroup):
            return " ".join(path)
        name, command, left = command.resolve_command(context, [*context._protected_args, *context.args])
        path.append(name)


CALLS = [(block, call) for block in SHELL for line in lines_of(block) for call in calls_in(line)]


@pytest.mark.parametrize(
    ("block", "arguments"), CALLS, ids=[f"{block.page.name}: {shlex.join(call)}" for block, call in CALLS]
)
def test_a_command_of_a_document_is_one(block: Block, arguments: list[str]) -> None:
    try:
        parse(arguments)
    except UsageError as error:
        raise AssertionError(f"{block.name}: softprompt {shlex.join(arguments)}: {error.format_message()}") from None


def test_every_page_with_commands_is_walked() -> None:
    assert {block.page.name for block, _ in CALLS} == {
        "README.md", "compare.md", "console.md", "from_openai.md", "library.md", "lifecycle.md", "moving_in.md", "ray.md",
        "serving.md", "start.md", "suites.md", "tuning.md", "vllm.md",
    }  # fmt: skip
    assert len(CALLS) > 30


@pytest.mark.parametrize(
    "line",
    [
        "lst",
        "list x",
        "train",
        "train a.yaml --nope",
        "serve --port x",
        "library",
        "library nope",
        "--hom x list",
        "library gc --ys",
    ],
)
def test_a_command_that_is_none_is_found_out(line: str) -> None:
    with pytest.raises(UsageError):
        parse(line.split())


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED], ids=lambda page: page.name)
def test_commands_and_options_that_running_text_names_are_there(page: Path) -> None:
    known = options_of(typer.main.get_command(app)) | OF_OTHERS
    for span in re.findall(r"`([^`\n]+)`", unfenced(page)):
        wrong = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", span)) - known
        assert not wrong, f"{page.name} names {wrong}, which no command has"
        for call in calls_in(span):
            try:
                parse(call)
            except UsageError as error:
                if type(error).__name__ not in ("MissingParameter", "NoArgsIsHelpError"):  # what is left out is not wrong
                    raise AssertionError(f"{page.name}: `{span}`: {error.format_message()}") from None
