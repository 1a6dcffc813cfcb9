"""What is wrong with a name, a file, a path or an option is told before torch is loaded, by every command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer.main

from softprompt.cli.app import app
from softprompt.library.library import Library
from tests.models import make_base, some_prompt

PROGRAM = """
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from softprompt.cli import main

class Heavy(BaseException):
    pass

class Guard:  # what is heavy is not loaded, but named: so every command stands for itself
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers"):
            raise Heavy(name)

calls = json.load(sys.stdin)
sys.meta_path.insert(0, Guard())
sys.stdin = open(os.devnull)
for arguments in calls:
    sys.argv = ["softprompt", *arguments]
    err, out, code, heavy = io.StringIO(), io.StringIO(), 0, None
    with redirect_stderr(err), redirect_stdout(out):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except Heavy as loaded:
            heavy = str(loaded)
    print(json.dumps([code, err.getvalue(), heavy]))
"""

ROWS = "text,label\n" + "".join(f"red {n},yes\nblue {n},no\n" for n in range(20))
TASK = 'task: kind\nlabels: ["yes", "no"]\n'

NO_TASK, NO_FOLDER, NO_DATA, NO_FILE = "no task 'kind'", "no folder './nowhere'", "no data file 'none.csv'", "cannot be read"
HERE, NO_PAGE = ("--base", "builtin/tiny"), "is a file and no folder; name another place"
GONE, NO_JOB, NO_HOME = "there is no such folder any more", "there is no job 'x'", "there is no library in"
EXPECTED = {
    ("init", "nowhere.csv"): "nowhere.csv",
    ("init", "rows.csv", "--base", "./nowhere"): NO_FOLDER,
    ("import-openai", "none.jsonl"): "none.jsonl",
    ("import-openai", "rows.csv"): "line 1 is not JSON",
    ("train", "missing.yaml"): "missing.yaml",
    ("train", "unknown.yaml"): "here it is `learning_rate`",
    ("train", "nodata.yaml"): NO_DATA,
    ("train", "unlisted.yaml"): "'maybe'",
    ("train", "column.yaml"): "'body'",
    ("train", "base.yaml"): NO_FOLDER,
    ("train", "empty.yaml"): "plain",
    ("train", "good.yaml", "--set", "max_step=1"): "did you mean 'max_steps'?",
    ("train", "good.yaml", "good.yaml"): "is used twice",
    ("train", "good.yaml", "--dtype", "float13"): "dtype 'float13' is unknown",
    ("train", "good.yaml", "--plan", "--quantization", "int2"): "quantization 'int2' is unknown",
    ("train", "good.yaml", "--base-adapter", "nowhere"): "no LoRA adapter in 'nowhere'",
    ("train", "good.yaml", "--report-to", "tensorflow"): "there is no tracker 'tensorflow'",
    ("train", "good.yaml", "--subsets", "500"): "which subsets are not",
    ("train", "started.yaml"): "no task 'before'",
    ("train", "good.yaml", "--home", "rows.csv"): "cannot create the home",
    ("distill", "none.yaml"): NO_FILE,
    ("distill", "good.yaml", "--instruction", "none.txt"): "none.txt",
    ("distill", "good.yaml", "--set", "instruction=Say it.", "--dtype", "float13"): "float13",
    ("sweep", "good.yaml", "lr=0.1,0.2"): "here it is `learning_rate`",
    ("sweep", "good.yaml", "learning_rate=0.1,fast"): "'fast'",
    ("sweep", "good.yaml", "seed=1,2", "--plot", "rows.csv/page.html"): NO_PAGE,
    ("compare", "unknown.yaml"): "here it is `learning_rate`",
    ("compare", "good.yaml", "--methods", "ours,lorra"): "did you mean 'lora'?",
    ("compare", "good.yaml", "--max-seconds", "0"): "max_seconds 0.0 is no time",
    ("compare", "good.yaml", "--html", "rows.csv/page.html"): NO_PAGE,
    ("evaluate", "nodata.yaml"): NO_DATA,
    ("evaluate", "good.yaml"): NO_TASK,
    ("evaluate", "kind", "--data", "rows.csv"): NO_TASK,
    ("evaluate", "kind"): "is no task file",
    ("evaluate", "moved.yaml"): GONE,
    ("evaluate", "moved.yaml", "--base", "./nowhere"): NO_FOLDER,
    ("evaluate", "moved", "--data", "unlisted.csv"): "unlisted.csv, line 42: the label 'maybe'",
    ("evaluate", "here", "--data", "rows.csv", "--output", "nodir/rows.csv"): "there is no folder 'nodir'",
    ("suite", "run", "moved", "--suite", "none.yaml"): NO_FILE,
    ("suite", "run", "kind", "--suite", "suite.yaml"): NO_TASK,
    ("suite", "show", "kind"): NO_TASK,
    ("suite", "drop", "moved", "--suite", "x"): "no outcome of suite 'x'",
    ("suite", "list", "kind"): NO_TASK,
    ("combine", "kind@1", "kind@2"): NO_TASK,
    ("combine", "here@1", "here@2", "--data", "none.csv"): NO_DATA,
    ("combine", "here@1", "here@2", "--data", "none.yaml"): NO_FILE,
    ("combine", "here@1", "here@2", "--task", "a b"): "'a b' is refused",
    ("combine", "moved@1", "moved@1", "--data", "rows.csv"): "moved@1 is named twice",
    ("combine", "moved@1", "here@1", "--data", "rows.csv"): GONE,
    ("personalize", "kind", "--history", "rows.csv", "--user", "a"): NO_TASK,
    ("personalize", "here", "--history", "none.csv", "--user", "a"): NO_DATA,
    ("personalize", "here", "--history", "unlisted.csv", "--user", "a"): "'maybe'",
    ("personalize", "moved", "--history", "rows.csv", "--user", "a"): GONE,
    ("retrain", "kind"): NO_TASK,
    ("retrain", "here"): "give one of this task with --task-file FILE",
    ("retrain", "here", "--task-file", "none.yaml"): NO_FILE,
    ("retrain", "here", "--task-file", "good.yaml", "--data", "none.csv"): "none.csv'; put it there, or mend the path",
    ("retrain", "moved", "--task-file", "moved.yaml"): GONE,
    ("correct", "kind"): NO_TASK,
    ("correct", "here", "--task-file", "good.yaml"): "has no correction",
    ("correct", "here", "--task-file", "good.yaml", "--data", "none.csv"): NO_DATA,
    ("correct", "moved", "--task-file", "moved.yaml", "--data", "rows.csv"): GONE,
    ("upgrade", "kind", "--to", "builtin/tiny"): NO_TASK,
    ("upgrade", "--to", "./nowhere"): NO_FOLDER,
    ("upgrade", "--to", "builtin/tinny"): "no built-in base 'builtin/tinny'",
    ("upgrade", "here", "--to", "builtin/tiny", "--task-file", "none.yaml"): NO_FILE,
    ("predict", "kind", "red"): NO_TASK,
    ("predict", "here@9", "red"): "has no version 9",
    ("predict", "here", "--data", "none.csv"): NO_DATA,
    ("predict", "here", "red", "--output", "nodir/rows.csv"): "there is no folder 'nodir'",
    ("predict", "here", "red", "--dtype", "float13"): "float13",
    ("predict", "moved", "red"): GONE,
    ("serve", "--port", "0", "--base", "./nowhere"): NO_FOLDER,
    ("serve", "--port", "0", "--home", "nohome"): NO_HOME,
    ("serve", "--port", "0", "--host", "0.0.0.0", *HERE): "no API key exists",
    ("serve", "--port", "0", "--log-level", "loud"): "--log-level 'loud' is unknown",
    ("serve", "--port", "0", "--engine-args", "{}"): "add --engine vllm",
    ("serve", "--port", "0", "--engine", "vllm", "--engine-args", "x"): "--engine-args is no JSON",
    ("serve", "--port", "0", "--dtype", "float13"): "float13",
    ("serve", "--port", "0", "--passages", "none", *HERE): "'none' is no folder of texts",
    ("deploy",): "add --ray",
    ("deploy", "--ray", "--base", "./nowhere"): NO_FOLDER,
    ("inspect", "kind"): NO_TASK,
    ("inspect", "here", "--data", "none.csv"): NO_DATA,
    ("inspect", "here", "--plot", "rows.csv/page.html"): NO_PAGE,
    ("inspect", "moved"): GONE,
    ("diagnose", "kind"): NO_TASK,
    ("diagnose", "none.yaml"): NO_FILE,
    ("diagnose", "unlisted.yaml"): "'maybe'",
    ("diagnose", "base.yaml", "--probe"): NO_FOLDER,
    ("drift", "kind"): NO_TASK,
    ("drift", "here", "--reference", "none.csv"): NO_DATA,
    ("drift", "here", "--data", "rows.csv"): "has no reference",
    ("drift", "here", "--html", "rows.csv/page.html"): NO_PAGE,
    ("drift", "moved", "--reference", "rows.csv"): GONE,
    ("review", "kind"): NO_TASK,
    ("demo", "--home", "rows.csv"): "cannot create the home",
    ("base", "show", "./nowhere"): NO_FOLDER,
    ("base", "verify", "./nowhere"): NO_FOLDER,
    ("list", "--home", "nohome"): NO_HOME,
    ("show", "kind"): NO_TASK,
    ("report", "kind"): NO_TASK,
    ("report", "here", "--html", "nodir/page.html"): "there is no folder 'nodir'; make it first",
    ("promote", "kind@1", "--alias", "production"): NO_TASK,
    ("rollback", "kind"): NO_TASK,
    ("audit", "kind"): NO_TASK,
    ("tag", "kind@1", "x"): NO_TASK,
    ("delete", "kind@1"): NO_TASK,
    ("restore", "kind@1"): NO_TASK,
    ("export", "kind", "out"): NO_TASK,
    ("export", "here", "rows.csv"): "cannot write to 'rows.csv'",
    ("export", "kind", "out", "--format", "tokens"): NO_TASK,
    ("export", "here", "here@1", "out", "--format", "tokens"): "are of one task",
    ("export", "moved", "out", "--format", "gguf"): GONE,
    ("import", "nowhere", "--task", "kind"): "nowhere",
    ("import", "rows.csv", "--task", "kind"): "rows.csv",
    ("import", "plain", "--task", "kind"): "'plain' is no PEFT folder",
    ("push", "kind", "owner/name"): NO_TASK,
    ("pull", "owner/name", "--home", "rows.csv"): "cannot create the home",
    ("bundle", "out.bundle", "kind"): NO_TASK,
    ("unbundle", "rows.csv"): "this is no bundle",
    ("ab", "start", "kind"): NO_TASK,
    ("ab", "status", "kind"): NO_TASK,
    ("ab", "change", "kind", "--weight", "0.1"): NO_TASK,
    ("ab", "stop", "kind"): NO_TASK,
    ("library", "verify", "--home", "nohome"): NO_HOME,
    ("library", "gc", "--home", "nohome"): NO_HOME,
    ("library", "copy", "--to-home", "rows.csv"): "cannot create the home",
    ("library", "rebind", "./nowhere"): NO_FOLDER,
    ("library", "stats", "--home", "nohome"): NO_HOME,
    ("keys", "create", "a", "--scope", "all"): "scope 'all' is refused",
    ("keys", "list", "--home", "nohome"): NO_HOME,
    ("keys", "revoke", "a"): "no live key 'a'",
    ("jobs", "list", "--home", "nohome"): NO_HOME,
    ("jobs", "show", "x"): NO_JOB,
    ("jobs", "cancel", "x"): NO_JOB,
    ("jobs", "pause", "x"): NO_JOB,
    ("jobs", "resume", "x"): NO_JOB,
    ("tenant", "export", "kind", "out"): "nothing of tenant 'kind'",
    ("tenant", "erase", "kind"): "nothing of tenant 'kind'",
}  # fmt: skip

REFUSES_NOTHING = {("doctor",), ("base", "list")}
"""What is wrong is what `doctor` shows, with the versions of packages; and `base list` takes no name."""


def test_no_command_loads_torch_to_say_what_is_wrong(tmp_path: Path) -> None:
    with Library.open() as library:
        for task, address, count in (("moved", str(tmp_path / "gone"), 1), ("here", "builtin/tiny", 2)):
            for seed in range(count):
                prompt = some_prompt(make_base("llama"), task, seed=seed, labels=("yes", "no"))
                library.publish(prompt.to_bytes(), base=address)
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "unlisted.csv").write_text(ROWS + "green,maybe\n" * 9)
    (tmp_path / "suite.yaml").write_text('name: s\nmust: ["yes"]\n')
    (tmp_path / "plain").mkdir()
    for name, text in {
        "unknown": "lr: 1\ndata: rows.csv\n",
        "nodata": "data: none.csv\n",
        "unlisted": "data: unlisted.csv\n",
        "column": 'data: rows.csv\ninput: "{body}"\n',
        "base": "data: rows.csv\nbase: ./nowhere\n",
        "empty": "data: rows.csv\nbase: plain\n",
        "started": "data: rows.csv\nprompt_tuning_init_prompt: before\n",
        "good": "data: rows.csv\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(TASK + text)
    (tmp_path / "moved.yaml").write_text(TASK.replace("kind", "moved") + "data: rows.csv\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(list(EXPECTED)), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(EXPECTED)
    wrong = {}
    for (arguments, part), (code, err, heavy) in zip(EXPECTED.items(), results, strict=True):
        if code != 1 or part not in err or heavy:
            wrong[arguments] = (code, err[-300:], heavy)
    assert not wrong, "\n".join(map(str, wrong.items()))


def test_every_command_is_among_them() -> None:
    tried = {name for name in _commands() if any(call[: len(name)] == name for call in EXPECTED)}
    assert set(_commands()) - tried == REFUSES_NOTHING


def _commands() -> Iterator[tuple[str, ...]]:
    """The names of all commands, those of groups behind the group's."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        yield from [(name,)] if inner is None else [(name, one) for one in inner]
