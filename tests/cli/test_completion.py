"""Shells complete commands and options: in a real bash, and as zsh and fish ask for it. The command is a module too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BESIDE = Path(sys.executable).parent
ENV = {**os.environ, "PATH": f"{BESIDE}{os.pathsep}{os.environ['PATH']}"}


def said(command: list[str], **env: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**ENV, **env}, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("typed", "found"),
    [("softprompt pro", "promote"), ("softprompt train --qu", "--quantization"), ("softprompt keys cr", "create")],
)
def test_bash_zsh_and_fish_are_told_what_fits(typed: str, found: str) -> None:
    words = len(typed.split()) - 1
    asked = said(["softprompt"], _SOFTPROMPT_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(words))
    assert asked.split() == [found]
    for shell in ("zsh", "fish"):
        more = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
        told = said(["softprompt"], _SOFTPROMPT_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_ARGS=typed, **more)
        assert found in told


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_what_is_installed_completes_in_a_real_bash(tmp_path: Path) -> None:
    said(["bash", "-c", "softprompt --install-completion; true"], HOME=str(tmp_path))
    asking = (
        "source ~/.bashrc; COMP_WORDS=(softprompt library ver); COMP_CWORD=2; _softprompt_completion softprompt; "
        'echo "${COMPREPLY[@]}"'
    )
    assert said(["bash", "-c", asking], HOME=str(tmp_path)) == "verify\n"


def test_the_package_is_run_as_the_command_is() -> None:
    command, module = ["softprompt"], [sys.executable, "-m", "softprompt"]
    assert said([*module, "--version"]) == said([*command, "--version"])
    assert "promote" in said([*module, "--help"])
    wrong = [
        subprocess.run([*one, "promot"], capture_output=True, text=True, env=ENV, timeout=120) for one in (command, module)
    ]
    assert [one.returncode for one in wrong] == [2, 2]
    assert wrong[0].stderr == wrong[1].stderr.replace("python -m softprompt", "softprompt")
    refused = [
        subprocess.run([*one, "--home", "/nowhere", "list"], capture_output=True, text=True, env=ENV, timeout=120)
        for one in (command, module)
    ]
    assert [one.returncode for one in refused] == [1, 1]
    assert refused[0].stderr == refused[1].stderr
