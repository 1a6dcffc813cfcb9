"""Options of training on Ray, where there is none."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from softprompt import cluster
from tests.commands import Done, Run


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"row {n},{'yes' if n % 2 else 'no'}\n" for n in range(40)))
    file = tmp_path / "one.yaml"
    file.write_text("task: one\ndata: rows.csv\nlabels: [yes, no]\n")
    return file


def usage(done: Done) -> str:
    """What is said of options that are wrong, on one line and out of its box."""
    assert (done.code, done.out) == (2, "")
    return " ".join(done.err.replace("│", " ").split())


def test_ray_that_is_not_installed_is_told_before_anything_else(
    run: Run, task: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(cluster, "find_spec", lambda name: None if name == "ray" else known(name))
    assert "Ray is not installed; install softprompt[ray]" in run("train", task, "--ray").refused()
    assert not home.exists()


@pytest.mark.parametrize(
    "option", ["--address=auto", "--workers=2", "--bank-size=3", "--processes=2", "--worker-cpus=1", "--worker-gpus=1"]
)
def test_an_option_of_ray_without_it_is_refused_by_name(run: Run, task: Path, option: str) -> None:
    told = usage(run("train", task, option))
    assert option.partition("=")[0] in told
    assert "add --ray" in told


@pytest.mark.parametrize("option", ["--plan", "--subsets=2", "--report-to=tensorboard"])
def test_what_needs_the_base_here_is_refused_with_ray(run: Run, task: Path, option: str) -> None:
    told = usage(run("train", task, "--ray", option))
    assert option.partition("=")[0] in told
    assert "leave one out" in told
