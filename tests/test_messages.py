"""Messages: each error class is rendered once, from an input that causes it; and a rule over all messages in the source."""

from __future__ import annotations

import ast
import inspect
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import softprompt
from softprompt import errors
from softprompt.cli import main
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import NO_PROMPT, EmbedJob, GenerateJob, Sampling
from softprompt.engines.scheduler import Limits, Scheduler, Work
from softprompt.jobs.uploads import Uploads
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from tests.library_data import make_prompt, scored
from tests.models import make_base

SOURCE = Path(errors.__file__).parent
CLASSES = {name: found for name, found in vars(errors).items() if inspect.isclass(found) and issubclass(found, Exception)}
NEVER_RAISED = {"SoftPromptError"}
"""The root, which is there to be caught."""

ROWS = "text,label\n" + "".join(f"red {n},yes\nblue {n},no\n" for n in range(40))


WORDED = (
    "tasks/config/config.py",
    "tasks/config/blocks.py",
    "tasks/answers/labels.py",
    "tasks/answers/decision.py",
    "evaluation/suites/suite.py",
)
"""Whose ValueErrors are shown as they are."""


@dataclass
class Place:
    """Where a case happens: the current folder, with rows, and a base."""

    base: Path
    monkeypatch: pytest.MonkeyPatch

    def command(self, *arguments: str) -> None:
        """Call the command, and let its error through."""
        self.monkeypatch.setenv("SOFTPROMPT_DEBUG", "1")
        self.monkeypatch.setattr(sys, "argv", ["softprompt", *arguments])
        main()

    def task(self, **fields: object) -> dict[str, object]:
        """A task on the rows and the base."""
        return {
            "task": "kind",
            "base": str(self.base),
            "data": "rows.csv",
            "labels": ["yes", "no"],
            "max_steps": 8,
            **fields,
        }

    def train_file(self, line: str) -> None:
        """Train a task file with one more line."""
        text = f"task: kind\nbase: {self.base}\ndata: rows.csv\nlabels: ['yes', 'no']\nmax_steps: 8\n{line}\n"
        Path("kind.yaml").write_text(text, encoding="utf-8")
        self.command("train", "kind.yaml")

    def library(self, *values: float) -> Library:
        """The library with a version of `trec6` for each value."""
        library = Library.open(create=True)
        for seed, value in enumerate(values):
            library.publish(make_prompt(seed=seed, metrics=scored(value)), base="builtin/tiny")
        return library


def wrong_label(place: Place) -> None:
    Path("rows.csv").write_text(ROWS + "green,maybe\n" * 9, encoding="utf-8")
    place.train_file("seed: 1")


def wrong_purpose(place: Place) -> None:
    Uploads(place.library()).add(b'{"text": "a", "label": "b"}\n', "rows.jsonl", "assistants")


def damaged_prompt(place: Place) -> None:
    Path("old.safetensors").write_bytes(b"abc")
    place.command("import", "old.safetensors")


def another_base(place: Place) -> None:
    place.library(0.5).close()
    place.command("predict", "trec6", "red", "--base", str(place.base))


def wild_rate(place: Place) -> None:
    wild = {"learning_rate": 90, "weight_decay": 1e4, "lr_scheduler_type": "constant"}
    softprompt.train(place.task(**wild), publish=False)


def told_to_stop(place: Place) -> None:
    stop = threading.Event()
    stop.set()
    softprompt.train(place.task(), publish=False, stop=stop)


def foreign_ids(_: Place) -> None:
    engine = ContinuousEngine(architecture_of(make_base("llama")))
    try:
        engine.submit(EmbedJob((5, 4321)), lambda _: None)
    finally:
        engine.stop()


def full_queue(_: Place) -> None:
    work = Work(GenerateJob(NO_PROMPT, (5,), Sampling(max_tokens=60)), lambda _: None, 1, 61)
    scheduler = Scheduler(Limits(max_waiting=1))
    scheduler.add([work])
    scheduler.add([replace(work)])


def aliased_version(place: Place) -> None:
    place.library(0.5).promote("trec6@1")
    place.command("delete", "trec6@1")


def worse_version(place: Place) -> None:
    place.library(0.8, 0.5).promote("trec6@1")
    place.command("promote", "trec6@2")


def foreign_database(place: Place) -> None:
    with closing(sqlite3.connect("shop.db")) as link:
        link.execute("create table customers (name text)")
    place.command("list", "--registry", "sqlite:///shop.db")


def read_only_home(place: Place) -> None:
    library = place.library(0.5)
    file = library.registry.database.file
    assert file is not None
    file.__dict__["read_only"] = True
    library.promote("trec6@1")


def altered_blob(place: Place) -> None:
    library = place.library(0.5)
    (blob,) = (path for path in (library.home / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o600)
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    library.read("trec6@1")


def narrow_key(place: Place) -> None:
    place.library().registry.keys.create("ci", ["read"]).key.require("train")


Case = tuple[Callable[[Place], object], str, str, str]
CASES: dict[str, Case] = {  # what causes it; what was wrong, the value, what to do
    "ConfigError": (lambda place: place.train_file("lr: 0.1"), "unknown key", "'lr'", "here it is `learning_rate`"),
    "DataError": (wrong_label, "is not among `labels`", "'maybe'", "list it or mend the row"),
    "FieldError": (wrong_purpose, "is refused", "'assistants'", "files are taken for 'fine-tune' and 'batch'"),
    "BaseModelError": (
        lambda place: place.command("base", "show", "./nowhere"),
        "no folder",
        "'./nowhere'",
        "give a folder",
    ),
    "ContextError": (
        lambda place: place.train_file("num_virtual_tokens: 500"),
        "leave no room for an input in the context",
        "500 virtual tokens",
        "use a shorter prompt",
    ),
    "PromptFileError": (damaged_prompt, "not a prompt file", "'old.safetensors'", "give one that softprompt has written"),
    "FingerprintMismatch": (another_base, "was made for base builtin/tiny", "0123456789abcdef", "give the base that it was"),
    "TrainingError": (wild_rate, "no number", "learning rate 90", "lower learning_rate"),
    "TrainingStopped": (told_to_stop, "stopped", "", "call the same command again"),
    "EngineError": (foreign_ids, "token ids must lie between", "4321", "0 and 319"),
    "EngineBusy": (full_queue, "queue is full", "1 job waiting", "try again later"),
    "LibraryError": (aliased_version, "is not deleted", "production", "promote another version first"),
    "NotFound": (lambda place: [place.library(0.5), place.command("show", "trec5")], "no task", "'trec5'", "mean 'trec6'"),
    "NameRefused": (lambda place: [place.library(0.5), place.command("show", "a b")], "is refused", "'a b'", "use letters"),
    "PromotionRefused": (worse_version, "is not promoted to production", "0.5000 on 500 rows", "--force --reason TEXT"),
    "RegistryError": (
        foreign_database,
        "holds tables that are not softprompt's",
        "(customers)",
        "give the registry a database of its own",
    ),
    "ReadOnly": (read_only_home, "can only be read here", "registry.db", "mend their permissions"),
    "StoreError": (altered_blob, "is altered", "trec6@1: blob", "put back its bytes"),
    "Denied": (narrow_key, "lacks the scope", "'train'", "use one that has it"),
}


def test_each_error_class_has_a_case() -> None:
    assert set(CASES) == set(CLASSES) - NEVER_RAISED


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_error_says_what_was_wrong_with_which_value_and_what_to_do(
    name: str, home: Path, tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause, wrong, value, mend = CASES[name]
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text(ROWS, encoding="utf-8")
    with pytest.raises(CLASSES[name]) as caught:
        cause(Place(base_folder, monkeypatch))
    message = str(caught.value)
    assert type(caught.value) is CLASSES[name], message
    for part in (wrong, value, mend):
        assert part in message
    assert len(message.splitlines()) == 1
    assert not message.endswith(".")
    assert message.index(wrong) <= message.rindex(mend)


# The rule over the source: what holds of every message, whether or not a test has an input for it.

FIRST_WORDS = {"ApiError": 1, "refused": 1}
"""Which argument is the message, where it is not the first."""

ADVISES = re.compile(
    r";|\{(nearest|_known|_explain|_what_is_there|_what_else|_not_utf8|why_none|self\._too_long)\("
    r"|\{(mend|hint|advice|what|fault|fault\[.*|problem\.detail|_READ_ONLY|_DAMAGED|_PAUSES|_NO_NUMBERS.*|reason|digits)\}"
)
"""What to do stands behind a semicolon, or in a part that another function or constant words, each of them with one."""

EXCEPTIONS = {
    ("serving/residents/changes.py", "nothing came within {self.patience_s / 2:g} s"): "for the log alone",
    ("serving/residents/residents.py", "nothing came within {patience_s:g} s"): "for the log alone",
    ("serving/residents/residents.py", "{message}"): "an error of ours that is remembered",
    ("training/session.py", "{member.run.failure}"): "whoever runs the session says what to do",
    ("tasks/config/foreign.py", "{where} has {len(lines)} faults: {told}"): "each fault has its own advice",
    ("tasks/config/foreign.py", "{where}: {lines[0]}"): "the fault has its own advice",
    (
        "tasks/draft/draft.py",
        "{table.file} has no column {given}{tail.replace('known:', 'it has')}",
    ): "the tail is that of `nearest`",
    (
        "cli/train.py",
        "stopped by {signal.Signals(received).name}{str(error).removeprefix('stopped')}",
    ): "as training says it",
    ("evaluation/suites/suite.py", "{key}: {error}"): "as tasks/answers/patterns.py says it",
    ("http/auth.py", "{message}"): "worded by its callers",
    ("http/routes/batches.py", "{str(error)}"): "refuse_unsupported says it",
    ("http/console/pages.py", "{error}"): "an error that is told by its type",
    ("http/console/pages.py", "{str(error.detail)}"): "as the framework says it",
    ("http/console/pages.py", "{str(error)}"): "an error of ours, by its type",
    ("http/console/tables.py", "{str(error).replace(f'{folder}/', '')}"): "an error of ours, less a folder",
    (
        "http/console/train.py",
        "{f\"{where}: {problem['msg']}\" if where else problem['msg']}",
    ): "pydantic says what a value should be",
    ("http/errors.py", "{message}"): "pydantic says what a value should be",
    ("http/errors.py", "{str(error)}"): "an error of ours, by its type",
    ("http/errors.py", "{message}{mark} {mend}"): "the mark is a semicolon",
}
"""Messages that the rule lets through, and why."""


@dataclass(frozen=True)
class Message:
    """A message in the source: of which error, its text with holes, and whether it hands on an error of ours."""

    file: str
    line: int
    error: str
    text: str
    handed_on: bool


def text_of(node: ast.expr) -> str:
    """The text of an expression; `{...}` is a hole."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.FormattedValue):
        spec = "" if node.format_spec is None else f":{text_of(node.format_spec)}"
        return f"{{{ast.unparse(node.value)}{spec}}}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return f"{{{ast.unparse(node)}}}"


def is_ours(node: ast.ExceptHandler | ast.match_case) -> bool:
    """Whether all that is caught here is of ours, and so says what to do by itself."""
    caught = node.type if isinstance(node, ast.ExceptHandler) else node.pattern
    named = set(re.findall(r"\w+Error|\w+", ast.unparse(caught))) if caught is not None else {"none"}
    return named <= {*CLASSES, "ApiError"}


def messages(tree: ast.AST, file: str, handed_on: bool = False) -> Iterator[Message]:
    """All messages of a file."""
    for node in ast.iter_child_nodes(tree):
        inside = handed_on or (isinstance(node, ast.ExceptHandler | ast.match_case) and is_ours(node))
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            at = FIRST_WORDS.get(name, 0)
            known = name in {*CLASSES, "ApiError", "refused", "BadParameter"}
            worded = name == "ValueError" and file in WORDED
            if (known or worded) and len(node.args) > at:
                yield Message(file, node.lineno, name, text_of(node.args[at]), inside)
        yield from messages(node, file, inside)


FOUND = [
    message
    for file in sorted(SOURCE.rglob("*.py"))
    for message in messages(ast.parse(file.read_text(encoding="utf-8")), str(file.relative_to(SOURCE)))
]


def fault_of(message: Message) -> str | None:
    """What is wrong with a message, by the rule."""
    text = message.text
    if (message.file, text) in EXCEPTIONS:
        return None
    if "\n" in text or "\\n" in text:
        return "holds a line break, and the command prints one line"
    if text.endswith(".") and not text.endswith("..."):
        return "ends in a period"
    hands_on = message.handed_on and re.search(r"\{(str\()?error\)?\}", text)
    if re.fullmatch(r"\{(str\()?error\)?\}", text) and not hands_on:
        return "is what a library said and nothing else"
    if not hands_on and not ADVISES.search(text):
        return "does not say what to do"
    return None


def test_every_message_in_the_source_keeps_the_rule() -> None:
    assert len(FOUND) > 400
    faults = [f"{one.file}:{one.line}: {one.error}: {one.text!r} {fault}" for one in FOUND if (fault := fault_of(one))]
    assert not faults, "\n".join(faults)


def test_no_exception_is_left_over() -> None:
    assert set(EXCEPTIONS) <= {(message.file, message.text) for message in FOUND}


def test_nothing_raises_the_root() -> None:
    assert not NEVER_RAISED & {message.error for message in FOUND}


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("raise ConfigError(f'{name!r} is wrong; mend it.')", "ends in a period"),
        ("raise ConfigError('a;' '\\n' 'b')", "holds a line break, and the command prints one line"),
        ("try: x\nexcept OSError as error: raise DataError(f'{error}')", "is what a library said and nothing else"),
        ("raise DataError(f'{name!r} is wrong')", "does not say what to do"),
        ("try: x\nexcept OSError as error: raise DataError(f'{name}: {error}')", "does not say what to do"),
        ("raise ApiError(400, 'all is wrong')", "does not say what to do"),
        ("raise DataError(f'{name!r} is wrong; mend it')", None),
        ("try: x\nexcept DataError as error: raise FieldError(f'{name}: {error}')", None),
        ("match x:\n case DataError():\n  ApiError(400, str(error))", None),
    ],
)
def test_the_rule_finds_what_is_wrong(code: str, fault: str | None) -> None:
    (message,) = messages(ast.parse(code), "a.py")
    assert fault_of(message) == fault
