"""The commands of the library: JSON for machines, tables for people, errors in one line."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from softprompt.bases.files.fingerprint import fingerprint_of_folder
from softprompt.bases.files.locate import BUILTIN
from softprompt.cli.output import emit
from softprompt.library.library import Library
from softprompt.registry.records import Origin
from softprompt.registry.registry import Registry
from tests.commands import Run
from tests.library_data import make_prompt, scored

BASE = "builtin/tiny"


@pytest.fixture
def filled(home: Path) -> Path:
    """Three versions of trec6, the first in production; one of another task."""
    with Library.open(home) as library:
        for seed, value in enumerate((0.8, 0.5, 0.81)):
            library.publish(make_prompt(seed=seed, metrics=scored(value)), base=BASE, tags=["t"] if seed else [])
        library.promote("trec6@1")
        library.publish(make_prompt("words", 7, metric="exact_match", fingerprint="f" * 32), base="org/model")
    return home


def test_list_and_its_filters(run: Run, filled: Path) -> None:
    rows = run("list", "--json").rows
    assert [(row["task"], row["version"], row["versions"]) for row in rows] == [("trec6", 3, 3), ("words", 1, 1)]
    assert rows[0]["aliases"] == ["production@1"]
    for args, found in (
        (["--task", "w*"], ["words"]),
        (["--base", "org/model"], ["words"]),
        (["--base", "ffffffff"], ["words"]),
        (["--tag", "t"], ["trec6"]),
        (["--metric", "accuracy>=0.9"], []),
        (["--tenant", "other"], []),
        (["--all"], ["trec6", "trec6", "trec6", "words"]),
    ):
        assert [row["task"] for row in run("list", "--json", *args).rows] == found


def test_what_a_bare_name_means_behind_a_deletion_is_said(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with Library.open(filled) as library:
        library.publish(make_prompt(seed=9), base=BASE)  # without a score
    kept = run("delete", "trec6@2")
    assert "means" not in kept.err  # production stays where it is
    forced = run("delete", "trec6@1", "--force")
    assert forced.code == 0
    said = " ".join(forced.err.split())
    assert "'trec6' means trec6@4 from now on (no score) and not trec6@1; to choose another, `softprompt promote" in said
    assert "version 1; production: 1 -> none" in " ".join(run("audit", "trec6").out.split())
    assert "means trec6@3 from now on (accuracy 0.81) and not trec6@4" in " ".join(run("delete", "trec6@4").err.split())
    assert "means trec6@4 from now on" in " ".join(run("restore", "trec6@4").err.split())
    gone = run("delete", "trec6", "--all", "--json")
    assert [row["version"] for row in gone.rows] == [4, 3]
    assert "'trec6' meant trec6@4 and means nothing now" in " ".join(gone.err.split())
    assert "'trec6' means trec6@1 from now on (accuracy 0.8);" in " ".join(run("restore", "trec6@1").err.split())


def test_show_keeps_the_contract(run: Run, filled: Path) -> None:
    (shown,) = run("show", "trec6", "--json").rows
    assert shown["task"] == "trec6"
    assert shown["aliases"] == {"production": 1}
    assert [version["version"] for version in shown["versions"]] == [1, 2, 3]
    first = shown["versions"][0]
    assert set(first) >= {
        *("version", "digest", "base", "fingerprint", "metric", "value", "created_at", "tags", "aliases", "deleted"),
        *("parents", "recipe", "data_digest"),
    }
    assert (first["value"], first["aliases"], first["deleted"]) == (0.8, ["production"], False)
    assert "origin" not in first
    (shown,) = run("show", "trec6@2", "--json").rows
    assert shown["versions"][0]["origin"] is None
    assert [version["version"] for version in shown["versions"]] == [2]


def test_promote_roll_back_and_audit(run: Run, filled: Path) -> None:
    refused = run("promote", "trec6@2", "--alias", "production", "--json")
    assert refused.code == 1
    assert refused.out == ""
    assert "0.5000 on 500 rows, against 0.8000 on 500 rows" in refused.err
    assert run("promote", "trec6@2", "--alias", "production", "--force").code == 1
    (move,) = run("promote", "trec6@2", "--alias", "production", "--force", "--reason", "a test", "--json").rows
    assert (move["before_value"], move["before_rows"], move["after_value"], move["after_rows"]) == (0.8, 500, 0.5, 500)
    assert move["decision"] == "promoted, forced: clearly worse, by 0.3000, on 500 rows each, if they are the same"
    assert (move["before"], move["after"]) == (1, 2)
    (move,) = run("rollback", "trec6", "--alias", "production", "--json").rows
    assert (move["before"], move["after"]) == (2, 1)
    again = run("rollback", "trec6", "--alias", "production")
    assert again.code == 1
    assert "nothing to go back to" in again.err
    entries = run("audit", "trec6", "--json").rows
    assert [entry["action"] for entry in entries] == ["publish"] * 3 + ["promote", "promote", "rollback"]
    assert entries[-2]["reason"] == "a test"
    assert {entry["actor"] for entry in entries} == {"tester"}
    assert len(run("audit", "--limit", "2", "--json").rows) == 2
    numeric = run("promote", "trec6@3", "--alias", "3")
    assert numeric.code == 1
    assert "version number" in numeric.err


def test_tag_delete_restore(run: Run, filled: Path) -> None:
    (row,) = run("tag", "trec6@3", "nightly", "--remove", "t", "--json").rows
    assert row["tags"] == ["nightly"]
    assert run("tag", "trec6@3").code == 2
    (row,) = run("delete", "trec6@3", "--json").rows
    assert row["deleted"]
    assert run("show", "trec6@9").code == 1
    (row,) = run("restore", "trec6@3", "--json").rows
    assert not row["deleted"]
    assert run("delete", "trec6@1").code == 1
    rows = run("delete", "trec6", "--all", "--force", "--json").rows
    assert [row["version"] for row in rows] == [3, 2, 1]
    assert run("library", "verify", "--json").rows[0]["ok"]


def test_show_of_one_version_tells_what_it_was_trained_from(run: Run, filled: Path) -> None:
    origin = Origin("run-1", {"task": "words", "seed": 3}, [{"split": "train", "address": "a", "digest": "d", "rows": 1}])
    with Library.open(filled) as library:
        library.publish_all([make_prompt("words")], base=BASE, origins=[origin])
    (shown,) = run("show", "words@2", "--json").rows
    assert shown["versions"][0]["origin"] == origin.row()
    table = run("show", "words@2").out
    assert "seed: 3" in table
    assert "train: 1 row of a, digest d" in table
    assert "none was recorded" in run("show", "words@1").out


def test_a_home_that_gets_a_key_is_closed_to_others(run: Run, filled: Path) -> None:
    filled.chmod(0o755)
    run("list", "--json")
    assert filled.stat().st_mode & 0o777 == 0o755
    assert run("keys", "create", "app", "--json").code == 0
    assert filled.stat().st_mode & 0o777 == 0o700


def test_a_copy_is_its_users_alone_too(run: Run, filled: Path, tmp_path: Path) -> None:
    assert run("library", "copy", "--to-home", tmp_path / "copy", "--json").code == 0
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700


def test_verify_gc_copy_stats(run: Run, filled: Path, tmp_path: Path) -> None:
    (report,) = run("library", "verify", "--json").rows
    assert (report["ok"], report["versions"], report["problems"]) == (True, 4, [])
    with Library.open(filled) as library:
        stray = library.store.put(b"stray")
        damaged = library.registry.resolve("words").digest
    assert [row["digest"] for row in run("library", "gc", "--json").rows] == [stray]
    assert run("library", "stats", "--json").rows[0]["blobs"] == 5
    assert [row["deleted"] for row in run("library", "gc", "--yes", "--json").rows] == [True]
    assert run("library", "stats", "--json").rows[0]["blobs"] == 4
    (row,) = run("library", "copy", "--to-home", str(tmp_path / "copy"), "--json").rows
    assert row["blobs"] == 4
    assert [row["task"] for row in run("--home", str(tmp_path / "copy"), "list", "--json").rows] == ["trec6", "words"]
    assert run("library", "copy").code == 2
    (filled / "blobs" / damaged).write_bytes(b"x")
    broken = run("library", "verify", "--json")
    assert broken.code == 1
    assert json.loads(broken.out)["problems"][0]["digest"] == damaged


def test_gc_leaves_the_blobs_of_a_lost_registry_alone(run: Run, filled: Path) -> None:
    blobs = sorted((filled / "blobs").iterdir())
    for path in filled.glob("registry.db*"):
        path.unlink()
    for args in ([], ["--yes"]):
        assert "has blobs and no registry.db: the registry was lost" in run("library", "gc", *args).refused()
        Library.open(filled).close()  # which makes an empty one
        assert "names no version at all, and the store" in run("library", "gc", *args).refused()
        for path in filled.glob("registry.db*"):
            path.unlink()
    assert sorted((filled / "blobs").iterdir()) == blobs


def test_a_row_that_is_too_wide_is_shown_downwards(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"task": "t", "path": "/" + "x" * 64, "digest": "d" * 64}
    emit([row], False, "Exported")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["path", row["path"]] for line in lines)
    emit([{**row, "path": "/x"}], False, "Exported")
    assert any(line.split() == ["task", "path", "digest"] for line in capsys.readouterr().out.splitlines())


def test_keys(run: Run, home: Path) -> None:
    (made,) = run("keys", "create", "ci", "--scope", "predict", "--tenant", "acme", "--json").rows
    assert made["secret"].startswith("sp-")
    assert made["scopes"] == ["predict"]
    listed = run("keys", "list", "--tenant", "acme", "--json")
    assert made["secret"] not in listed.out
    assert [key["name"] for key in listed.rows] == ["ci"]
    assert run("keys", "list", "--json").rows == []
    assert run("keys", "revoke", "ci").code == 1
    assert run("keys", "revoke", "ci", "--tenant", "acme", "--json").rows[0]["revoked"]
    shown = run("keys", "create", "cd")
    assert "sp-" in shown.out.replace("\n", "")
    assert "Keep the secret now" in shown.err


def test_options_stand_before_or_after_and_win_over_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        with Library.open(tmp_path / name) as library:
            library.publish(make_prompt(name), base=BASE)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert [row["task"] for row in run("--home", one, "list", "--json").rows] == ["one"]
    assert [row["task"] for row in run("list", "--home", two, "--json").rows] == ["two"]
    assert [row["task"] for row in run("--home", one, "list", "--home", two, "--json").rows] == ["two"]
    monkeypatch.setenv("SOFTPROMPT_TENANT", "nobody")
    assert run("--home", one, "list", "--json").rows == []
    assert len(run("--home", one, "--tenant", "default", "list", "--json").rows) == 1
    assert len(run("--home", one, "list", "--tenant", "default", "--json").rows) == 1
    url = f"sqlite:///{tmp_path}/one/registry.db"
    assert len(run("--home", two, "--tenant", "default", "--registry", url, "list", "--json").rows) == 1
    wrong = run("--store", "ftp://x/y", "list")
    assert wrong.code == 1
    assert "unknown scheme 'ftp'" in wrong.err


@pytest.mark.parametrize(
    "args",
    [
        ["list"],
        ["show", "trec6"],
        ["show", "trec6@1"],
        ["audit"],
        ["library", "verify"],
        ["library", "gc"],
        ["library", "stats"],
        ["keys", "list"],
        ["list", "--task", "nothing"],
    ],
)
def test_tables_fit_80_columns(run: Run, filled: Path, args: list[str]) -> None:
    answer = run(*args)
    assert answer.code == 0
    assert answer.out or answer.err
    assert max((len(line) for line in answer.out.splitlines()), default=0) <= 80


def test_errors_are_one_line_on_stderr(run: Run, filled: Path) -> None:
    answer = run("show", "trec5")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "error: no task 'trec5' for tenant 'default'; `softprompt list` shows all; did you mean 'trec6'?\n"


def test_a_bug_is_told_as_such(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(Registry, "tasks", fail)
    answer = run("list")
    assert answer.code == 70
    assert answer.err.count("\n") == 1
    assert "this is a bug in softprompt: ZeroDivisionError: a b; run again with SOFTPROMPT_DEBUG=1" in answer.err
    monkeypatch.setenv("SOFTPROMPT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("list")


def test_what_the_system_refuses_is_no_bug(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "/a/\x1b[31mfile")

    monkeypatch.setattr(Registry, "tasks", fail)
    answer = run("list")
    assert answer.code == 1
    assert answer.err.startswith("error: the system refuses: Permission denied ('/a/")
    assert "\x1b" not in answer.err
    monkeypatch.setenv("SOFTPROMPT_DEBUG", "1")
    with pytest.raises(PermissionError):
        run("list")


def test_a_full_stdout_is_told_in_one_line(filled: Path) -> None:
    with open("/dev/full", "w") as full:
        for args in (["list"], ["list", "--json"]):
            done = subprocess.run([*COMMAND, *args], stdout=full, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 1
            assert done.stderr.startswith("error: the system refuses: No space left on device")
            assert done.stderr.count("\n") == 1


def test_an_empty_library_is_told_as_such(run: Run, home: Path) -> None:
    Library.open(home).close()
    answer = run("show", "trec6")
    assert answer.err == (
        "error: no task 'trec6' for tenant 'default'; it has none yet: train one, or name another library with --home\n"
    )


def test_promoting_what_is_there_says_that_nothing_moved(run: Run, filled: Path) -> None:
    assert "Promoted" in (out := run("promote", "trec6@3", "--alias", "staging").out)
    assert "promoted: nothing was there before" in " ".join(out.split())
    shown = " ".join(run("promote", "trec6@3").out.split())
    for words in ("1: 0.800 on 500 rows", "3: 0.810 on 500 rows", "promoted: better by 0.0100"):
        assert words in shown
    run("rollback", "trec6")
    assert "Nothing moved: production is there already; name another as TASK@N" in run("promote", "trec6").out


def test_an_interrupt_ends_quietly(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "tasks", interrupt)
    answer = run("list")
    assert answer.code == 130
    assert "Traceback" not in answer.err


def test_show_and_promote_tell_of_versions_that_have_not_learnt(home: Path, run: Run) -> None:
    with Library.open(home, create=True) as library:
        for seed, (value, majority) in enumerate([(0.5, 0.5), (0.9, 0.5), (0.4, 0.5)]):
            library.publish(make_prompt("words", seed=seed, metrics=scored(value, majority=majority)), base="builtin/tiny")
    said = "not learnt, as a baseline is as good, or better: "
    assert f"{said}words@1, words@3\n" in run("show", "words").out
    assert f"{said}words@1\n" in run("show", "words@1").out
    assert said not in run("show", "words@2").out
    promoted = run("promote", "words@1")
    assert "words@1 has not learnt: a baseline is as good, or better; see `softprompt show words@1`" in promoted.err
    assert run("promote", "words@2").err == ""
    run("delete", "words@3")
    assert f"{said}words@1\n" in run("show", "words").out


@pytest.mark.parametrize("args", [["lst"], ["list", "--nonsense"], ["show"], ["keys", "create"], ["audit", "--limit", "0"]])
def test_wrong_usage_exits_2(run: Run, args: list[str]) -> None:
    assert run(*args).code == 2


def test_control_characters_do_not_reach_the_terminal(run: Run, home: Path) -> None:
    with Library.open(home) as library:
        library.publish(make_prompt(), base="\x1b[31mred\x07")
    assert "\x1b" not in run("list").out
    assert run("list", "--json").rows[0]["base"] == "\x1b[31mred\x07"


COMMAND = [sys.executable, "-c", "from softprompt.cli import main; main()"]


def test_a_reader_that_goes_away_is_no_error(filled: Path) -> None:
    with Library.open(filled) as library:
        for number in range(400):
            library.registry.keys.create(f"k{number}", ["read"])
    pipe = subprocess.Popen([*COMMAND, "keys", "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert pipe.stdout is not None
    assert pipe.stdout.readline().startswith("{")
    pipe.stdout.close()
    assert pipe.stderr is not None
    assert pipe.stderr.read() == ""
    pipe.wait(30)
    pipe.stderr.close()


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from softprompt.cli import main
sys.argv = ["softprompt", "--help"]
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "transformers", "sqlalchemy", "pydantic", "numpy", "alembic", "obstore"} & set(sys.modules)
print("HEAVY", heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY set()" in done.stdout, done.stdout + done.stderr
    for name in ("train", "predict", "list", "promote", "library", "keys", "import"):
        assert name in done.stdout


# Export and import


def test_exports_and_imports_our_own_file(run: Run, filled: Path, tmp_path: Path) -> None:
    (row,) = run("export", "trec6@2", str(tmp_path / "out"), "--format", "softprompt", "--json").rows
    assert Path(row["path"]).read_bytes() == make_prompt(seed=1, metrics=scored(0.5))
    (back,) = run("import", row["path"], "--json").rows
    assert (back["task"], back["version"], back["digest"]) == ("trec6", 4, row["digest"])
    (other,) = run("import", row["path"], "--task", "renamed", "--tag", "imported", "--json").rows
    assert (other["task"], other["version"]) == ("renamed", 1)
    (shown,) = run("show", "renamed", "--json").rows
    assert shown["versions"][0]["metrics"] == scored(0.5)
    assert shown["versions"][0]["tags"] == ["imported"]
    (changed,) = run("import", row["path"], "--task", "renamed", "--label", "a", "--label", "b", "--json").rows
    assert changed["digest"] != other["digest"]
    said = run("import", row["path"], "--task", "renamed", "--label", "a", "--labels", "c", "--labels", "d")
    assert (said.code, "both are given" in said.err) == (2, True)
    assert run("show", "renamed", "--json").rows[0]["versions"][1]["metrics"] == {}, "scores of other labels"


def test_what_a_bare_name_means_behind_an_import_is_said(run: Run, filled: Path, tmp_path: Path) -> None:
    (row,) = run("export", "trec6@2", str(tmp_path / "out"), "--format", "softprompt", "--json").rows
    assert "from now on" not in run("import", row["path"], "--json").err  # production stays where it is
    assert "from now on" not in run("import", row["path"], "--task", "fresh", "--json").err  # nothing was there
    said = " ".join(run("import", row["path"], "--task", "fresh", "--json").err.split())
    assert "'fresh' means fresh@2 from now on (accuracy 0.5) and not fresh@1; to choose another, `softprompt promote" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--input", "no column"], "input: the template 'no column' names no column"),
        (["--input", "{text"], "the template '{text' is wrong"),
        (["--target", "{a} {b}"], "target: the template '{a} {b}' names 2 columns"),
        (["--label", "yes"], "a choice needs at least two labels"),
        (["--label", "yes", "--label", "yes"], "'yes' is listed more than once"),
        (["--label", "yes", "--label", " "], "one of them is empty"),
        (["--task", "a b"], "task 'a b' is refused"),
        (["--task", "half \udcff"], "is refused"),
    ],
)
def test_importing_in_a_form_that_could_never_answer(
    run: Run, home: Path, tmp_path: Path, args: list[str], message: str
) -> None:
    (tmp_path / "whole").write_bytes(make_prompt())
    answer = run("import", str(tmp_path / "whole"), *args)
    assert (answer.code, answer.out) == (1, "")
    assert message in answer.err
    assert not home.exists()


@pytest.mark.parametrize("args", [["missing"], ["broken"], ["folder", "--task", "x"], ["folder"]])
def test_importing_what_is_no_prompt(run: Run, home: Path, tmp_path: Path, args: list[str]) -> None:
    (tmp_path / "broken").write_bytes(make_prompt()[:-3])
    (tmp_path / "folder").mkdir()
    answer = run("import", str(tmp_path / args[0]), *args[1:], "--json")
    assert answer.code == (2 if args == ["folder"] else 1)
    assert answer.out == ""
    assert args == ["folder"] or str(tmp_path / args[0]) in answer.err
    assert not home.exists() or run("list", "--json").rows == []


def test_exporting_where_nothing_can_be_written(run: Run, filled: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for form in ("peft", "softprompt"):
        answer = run("export", "trec6", str(tmp_path / "file"), "--format", form)
        assert answer.code == 1
        assert "choose another folder" in answer.err


def test_goes_to_peft_and_comes_back(run: Run, home: Path, tmp_path: Path) -> None:
    import torch

    from softprompt.bases.base import FrozenBase
    from softprompt.prompts.card import Card
    from softprompt.prompts.prompt import SoftPrompt
    from tests.models import make_base, tokenizer

    folder = tmp_path / "tiny-llama"
    make_base("llama").model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    base = FrozenBase.load(str(folder))
    card = Card(
        task="colours",
        base=base.name,
        fingerprint=base.fingerprint,
        num_virtual_tokens=3,
        token_dim=base.width,
        labels=("red", "blue"),
        metrics={"value": 0.5, "rows": 10},
    )
    prompt = SoftPrompt(torch.randn(3, base.width), card)
    with Library.open(home) as library:
        published = library.publish(prompt.to_bytes(), base=base.address)
    (row,) = run("export", "colours", str(tmp_path / "peft"), "--format", "peft", "--json").rows
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    (back,) = run("import", row["path"], "--task", "colours", "--json").rows
    assert (back["version"], back["digest"]) == (2, published.digest), "nothing is lost on the way"

    (tmp_path / "peft" / "softprompt_card.json").unlink()  # as another tool would have written it
    (plain,) = run("import", row["path"], "--task", "plain", "--base", str(folder), "--json").rows
    assert plain["base"] == str(folder)
    (like,) = run("import", row["path"], "--task", "alike", "--like", "colours@1", "--json").rows
    with Library.open(home) as library:
        assert library.registry.resolve("plain").card.labels is None
        assert library.registry.resolve("alike").card.labels == ("red", "blue")
        assert library.registry.resolve("alike").card.metrics == {}, "the scores are those of another prompt"
        assert torch.equal(SoftPrompt.from_bytes(library.read("alike")).vectors_PD, prompt.vectors_PD)
    assert like["version"] == 1
    wrong = run("import", row["path"], "--task", "x", "--base", str(tmp_path / "nowhere"))
    assert wrong.code == 1
    assert "no folder" in wrong.err


def test_the_commands_of_the_page_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "library.md").read_text(encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("SOFTPROMPT_HOME")
    tiny = fingerprint_of_folder(BUILTIN["builtin/tiny"])
    with Library.open() as library:
        for seed, value in enumerate((0.70, 0.72, 0.60)):
            library.publish(make_prompt(seed=seed, metrics=scored(value), fingerprint=tiny, labels=("yes", "no")), base=BASE)
    commands = [line[2:] for block in re.findall(r"```console\n(.*?)```", page, re.S) for line in block.splitlines()]
    assert len(commands) > 20
    for command in commands:
        program, *args = shlex.split(command)
        assert program == "softprompt"
        answer = run(*args)
        assert answer.code == 0, f"{command}: {answer.err}"
