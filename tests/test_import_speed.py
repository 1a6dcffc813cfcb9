"""What is light stays light: nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "transformers",
    "sqlalchemy",
    "alembic",
    "obstore",
    "sklearn",
    "pyarrow",
    "datasets",
    "peft",
    "numpy",
    "scipy",
    "fastapi",
    "uvicorn",
    "prometheus_client",
)


def heavy_after(code: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """Heavy modules that a fresh process has loaded after some code."""
    program = f"{code}\nimport json, sys\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [name for name in json.loads(done.stderr.splitlines()[-1]) if name not in allowed]


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert heavy_after("import softprompt; dir(softprompt); softprompt.__all__") == []


@pytest.mark.parametrize(
    "module",
    [
        "errors",
        "bases.options",
        "bases.architectures",
        "bases.files.adapter",
        "bases.files.fingerprint",
        "bases.folder",
        "prompts.card",
        "tasks.config.config",
        "tasks.config.task_file",
        "rows.sources",
        "rows.tables",
        "rows.values",
        "tasks.form",
        "evaluation.metrics",
        "evaluation.suites.measures",
        "evaluation.suites.suite",
        "progress",
        "names",
        "registry.gate",
        "tasks.config.schedule",
        "cli.app",
    ],
)
def test_modules_without_torch_stay_without_it(module: str) -> None:
    assert heavy_after(f"import softprompt.{module}") == []


@pytest.mark.parametrize("module", ["stores", "registry.registry", "library.library"])
def test_the_library_needs_no_torch(module: str) -> None:
    assert heavy_after(f"import softprompt.{module}", ("sqlalchemy", "alembic", "obstore")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["predict", "--help"],
        ["--version"],
        ["base", "--help"],
        ["serve", "--help"],
        ["suite", "run", "--help"],
        ["report", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = {['softprompt', *arguments]!r}\n"
        "from softprompt.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code"
    )
    assert heavy_after(code) == []


@pytest.mark.parametrize("command", [["predict", "none", "text"], ["combine", "none@1", "none@2"]])
def test_a_wrong_task_name_is_told_before_torch_is_loaded(tmp_path: Path, command: list[str]) -> None:
    code = (
        f"import sys; sys.argv = {['softprompt', '--home', str(tmp_path / 'home'), *command]!r}\n"
        "from softprompt.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert done.code == 1"
    )
    assert heavy_after(code, ("sqlalchemy", "alembic", "obstore")) == []


def test_a_task_is_drafted_for_a_base_without_torch(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"row {at},{'ab'[at % 2]}\n" for at in range(40)))
    code = (
        f"import sys; sys.argv = {['softprompt', 'init', str(tmp_path / 'rows.csv'), '--base', 'builtin/tiny']!r}\n"
        "from softprompt.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code"
    )
    assert heavy_after(code, ("numpy", "pyarrow")) == []
    assert "base: builtin/tiny" in (tmp_path / "rows.yaml").read_text()


def test_the_command_is_installed_and_answers() -> None:
    command = Path(sys.executable).parent / "softprompt"
    done = subprocess.run(
        [str(command), "--help"], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120"}
    )
    for word in ("train", "predict", "evaluate", "promote", "base"):
        assert word in done.stdout
    assert done.stderr == ""


def test_torchao_says_nothing_of_kernels_wherever_transformers_is_imported() -> None:
    """As `init` does, which loads no model."""
    code = "import logging, softprompt.bases.reading; print(logging.getLogger('torchao').level == logging.ERROR)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
