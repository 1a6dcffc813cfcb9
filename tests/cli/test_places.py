"""Places for files are looked at before the work: what cannot be written, or would replace what nobody meant, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.cli.places import check_new, check_page
from softprompt.errors import ConfigError
from tests.commands import Run

TASK = "task: t\ndata: rows.csv\nlabels: [yes, no]\n"


def test_a_page_replaces_pages_alone(tmp_path: Path) -> None:
    page = tmp_path / "made" / "later" / "page.html"
    check_page(None, "--html")
    check_page(page, "--html")
    assert not page.parent.exists(), "nothing is made before there is a page"
    page.parent.mkdir(parents=True)
    for begins in ("<!doctype html>\n<html lang='en'>", "<html>\n<head>", "<!DOCTYPE HTML><HTML>"):
        page.write_text(begins)
        check_page(page, "--html")
    page.write_text("text,label\n")
    with pytest.raises(ConfigError, match=r"--html .*page.html' is there already and is no page; name another file"):
        check_page(page, "--html")
    with pytest.raises(ConfigError, match=r"--plot .*later' is a folder; name a file in it"):
        check_page(page.parent, "--plot")
    with pytest.raises(ConfigError, match=r"page.html' is a file and no folder; name another place"):
        check_page(page / "inside.html", "--html")


def test_another_file_is_replaced_when_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    check_new(None, "--export", force=False)
    check_new(file, "--export", force=False)
    file.write_text("mine")
    check_new(file, "--export", force=True)
    with pytest.raises(ConfigError, match=r"is there already; name another file, or replace it with --force"):
        check_new(file, "--export", force=False)
    with pytest.raises(ConfigError, match=r"there is no folder '.*none'; make it first"):
        check_new(tmp_path / "none" / "rows.jsonl", "--export", force=True)


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "t.yaml", "--html"],
        ["sweep", "t.yaml", "seed=0,1", "--plot"],
        ["drift", "t", "--html"],
        ["inspect", "t", "--plot"],
    ],
    ids=lambda command: command[0],
)
def test_commands_refuse_a_place_before_they_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.yaml").write_text(TASK)
    assert "'t.yaml' is there already and is no page" in run(*command, "t.yaml").refused()
    assert (tmp_path / "t.yaml").read_text() == TASK


def test_a_page_of_nothing_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = run("drift", "t", "--reference", "rows.csv", "--html", "page.html").refused()
    assert "--html shows rows that are judged, and --reference alone judges none" in told
