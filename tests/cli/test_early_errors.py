"""What is wrong with a file, a path or a name is told before torch is loaded, by every command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from softprompt.library.library import Library
from tests.models import make_base, some_prompt

PROGRAM = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from softprompt.cli import main

for arguments in json.load(sys.stdin):
    sys.argv = ["softprompt", *arguments]
    err, out, code = io.StringIO(), io.StringIO(), 0
    with redirect_stderr(err), redirect_stdout(out):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, err.getvalue(), [name for name in ("torch", "transformers") if name in sys.modules]]))
"""

ROWS = "text,label\n" + "".join(f"red {n},yes\nblue {n},no\n" for n in range(20))
TASK = 'task: kind\nlabels: ["yes", "no"]\n'


def test_no_command_loads_torch_to_say_what_is_wrong(tmp_path: Path) -> None:
    with Library.open() as library:
        prompt = some_prompt(make_base("llama"), "moved", labels=("yes", "no"))
        library.publish(prompt.to_bytes(), base=str(tmp_path / "gone"))
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "unlisted.csv").write_text(ROWS + "green,maybe\n" * 9)
    (tmp_path / "plain").mkdir()
    for name, text in {
        "unknown": "lr: 1\ndata: rows.csv\n",
        "nodata": "data: none.csv\n",
        "unlisted": "data: unlisted.csv\n",
        "column": 'data: rows.csv\ninput: "{body}"\n',
        "base": "data: rows.csv\nbase: ./nowhere\n",
        "empty": "data: rows.csv\nbase: plain\n",
        "good": "data: rows.csv\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(TASK + text)
    (tmp_path / "moved.yaml").write_text(TASK.replace("kind", "moved") + "data: rows.csv\n")
    expected = {
        ("train", "missing.yaml"): "missing.yaml",
        ("train", "unknown.yaml"): "here it is `learning_rate`",
        ("train", "nodata.yaml"): "no data file 'none.csv'",
        ("train", "unlisted.yaml"): "'maybe'",
        ("train", "column.yaml"): "'body'",
        ("train", "base.yaml"): "no folder './nowhere'",
        ("train", "empty.yaml"): "plain",
        ("train", "good.yaml", "--set", "max_step=1"): "did you mean 'max_steps'?",
        ("train", "good.yaml", "good.yaml"): "is used twice",
        ("sweep", "good.yaml", "lr=0.1,0.2"): "here it is `learning_rate`",
        ("sweep", "good.yaml", "learning_rate=0.1,fast"): "'fast'",
        ("compare", "unknown.yaml"): "here it is `learning_rate`",
        ("compare", "good.yaml", "--methods", "ours,lorra"): "did you mean 'lora'?",
        ("evaluate", "nodata.yaml"): "no data file 'none.csv'",
        ("evaluate", "good.yaml"): "no task 'kind'",
        ("evaluate", "kind", "--data", "rows.csv"): "no task 'kind'",
        ("evaluate", "kind"): "is no task file",
        ("evaluate", "moved.yaml"): "there is no such folder any more",
        ("evaluate", "moved.yaml", "--base", "./nowhere"): "no folder './nowhere'",
        ("evaluate", "moved", "--data", "unlisted.csv"): "unlisted.csv, line 42: the label 'maybe'",
        ("predict", "kind", "red"): "no task 'kind'",
        ("show", "kind"): "no task 'kind'",
        ("export", "kind", "out"): "no task 'kind'",
        ("import", "nowhere", "--task", "kind"): "nowhere",
        ("promote", "kind@1", "--alias", "production"): "no task 'kind'",
        ("init", "nowhere.csv"): "nowhere.csv",
        ("base", "show", "./nowhere"): "nowhere",
        ("serve", "--port", "0", "--base", "./nowhere"): "nowhere",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(list(expected)), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(expected)
    wrong = {}
    for (arguments, part), (code, err, heavy) in zip(expected.items(), results, strict=True):
        if code != 1 or part not in err or heavy:
            wrong[arguments] = (code, err[-300:], heavy)
    assert not wrong, "\n".join(map(str, wrong.items()))
