"""Versions and their base: where it moved the fingerprint decides, and prompts of before stay those of their base."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.bases.files import fingerprint
from softprompt.bases.files.fingerprint import fingerprint_of_folder, former_fingerprint
from softprompt.bases.options import BaseOptions
from softprompt.engines.continuous import ContinuousEngine
from softprompt.errors import BaseModelError, FingerprintMismatch, LibraryError
from softprompt.evaluation.evaluate import evaluate
from softprompt.library.binding import plan_rebind, rebind
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.catalogue import find_model, list_models
from softprompt.serving.offline import Service
from softprompt.serving.residents.residents import Residents
from softprompt.serving.routing.router import Centroids
from softprompt.serving.service import AsyncService
from softprompt.serving.which_base import choose_base
from tests.bases.files.test_adapter import make_adapter, pytestmark  # noqa: F401
from tests.commands import Run
from tests.models import save_base, some_prompt

LABELS = ("yes", "no")


def of_before(prompt: SoftPrompt, base: Path, adapter: Path | None = None) -> SoftPrompt:
    """A prompt as it was tuned when the first rule gave fingerprints."""
    (former,) = former_fingerprint(base, adapter)
    return SoftPrompt(prompt.vectors_PD, prompt.card.model_copy(update={"fingerprint": former}), prompt.centroid_D)


@pytest.fixture
def moved(tmp_path: Path, home: Path, other_folder: Path) -> Path:
    """Where the base of two tasks is now; the library knows where it was. One prompt, `old`, is bound by the rule of before;
    `else` is of another base."""
    was = save_base(tmp_path / "was")
    base, other = FrozenBase.load(str(was)), FrozenBase.load(str(other_folder))
    with Library.open(home) as library:
        library.publish(some_prompt(base, "new", labels=LABELS).to_bytes(), base=base.address)
        library.publish(of_before(some_prompt(base, "old", labels=LABELS), was).to_bytes(), base=base.address)
        library.publish(some_prompt(other, "else", labels=LABELS).to_bytes(), base=other.address)
        acme = library.for_tenant("acme")
        acme.publish(some_prompt(base, "theirs", labels=LABELS).to_bytes(), base=base.address)
        acme.registry.delete("theirs@1")
    return was.rename(tmp_path / "now")


def rows_file(folder: Path) -> Path:
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["text", "label"], *([f"the {word} stone", label] for word, label in zip("abcd", LABELS * 2, strict=True))]
        )
    return folder / "rows.csv"


def test_a_base_that_moved_is_named_to_predict_and_evaluate(moved: Path, tmp_path: Path, run: Run) -> None:
    data = rows_file(tmp_path)
    for command in (["predict", "new", "red"], ["evaluate", "new", "--data", data]):
        message = run(*command, "--json").refused()
        assert "no such folder any more; give the place it has moved to with --base, or" in message
        assert "`softprompt library rebind PLACE --yes`" in message
    for task in ("new", "old"):
        done = run("predict", task, "red", "--base", moved, "--json")
        assert done.rows[0]["output"] in LABELS
        assert f"`softprompt library rebind {moved} --yes` has the new place remembered" in done.err
        assert run("evaluate", task, "--data", data, "--base", moved, "--json").rows[0]["rows"] == 4


def test_another_base_in_its_place_is_refused_with_both_fingerprints(
    moved: Path, other_folder: Path, tmp_path: Path, run: Run, home: Path
) -> None:
    for command in (["predict", "new", "red"], ["evaluate", "new", "--data", rows_file(tmp_path)]):
        message = run(*command, "--base", other_folder, "--json").refused()
        assert fingerprint_of_folder(moved) in message
        assert fingerprint_of_folder(other_folder) in message
        assert "it is another one" in message
    with Library.open(home) as library, pytest.raises(FingerprintMismatch, match=fingerprint_of_folder(other_folder)):
        Service(library, base=str(other_folder)).predict(["red"], "new")


def test_python_takes_the_place_too(moved: Path, home: Path, tmp_path: Path) -> None:
    with Library.open(home) as library:
        with pytest.raises(BaseModelError, match="give the place it has moved to"):
            Service(library).predict(["red"], "new")
        answers = Service(library, base=str(moved)).predict(["red", "red"], ["new", "old"])
        assert {answer.output for answer in answers} <= set(LABELS)
        (judged,) = evaluate("old", library=library, data=rows_file(tmp_path), base=str(moved))
        assert judged.rows == 4


def test_rebinding_proves_tells_and_leaves_a_trace(
    moved: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {("default", "new@1"), ("default", "old@1"), ("acme", "theirs@1")}
    now, (before,) = fingerprint_of_folder(moved), former_fingerprint(moved)
    assert {(row["tenant"], row["version"]) for row in run("library", "rebind", moved, "--json").rows} == expected
    with Library.open(home) as library:
        assert library.registry.resolve("new").base != str(moved)  # it was only told
    rows = run("library", "rebind", moved, "--yes", "--json").rows
    assert {(row["tenant"], row["version"]) for row in rows} == expected
    assert all((row["base"], row["fingerprint"], row["done"]) == (str(moved), now, True) for row in rows)
    assert {row["version"]: row["old_fingerprint"] for row in rows if row["tenant"] == "default"} == {
        "new@1": now,
        "old@1": before,
    }
    assert run("library", "rebind", moved, "--yes", "--json").rows == []
    for task in ("new", "old"):
        done = run("predict", task, "red", "--json")
        assert done.rows[0]["version"] == 1
        assert "warning" not in done.err
    line = run("audit", "old", "--json").rows[-1]
    assert (line["action"], line["reason"]) == ("rebind", "equal fingerprints")
    assert (line["before"]["fingerprint"], line["after"]["fingerprint"]) == (before, now)
    assert line["after"]["base"] == str(moved)
    assert run("library", "verify", "--json").rows[0]["ok"]


def test_rebinding_reads_every_byte_and_moves_nothing_else(
    moved: Path, other_folder: Path, home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = save_base(tmp_path / "foreign", seed=7)
    assert "no version is of" in run("library", "rebind", foreign, "--yes", "--json").refused()
    with Library.open(home) as library:
        plan = plan_rebind(library, BaseOptions(source=str(moved)), known_as="elsewhere")
        assert plan == []
        plan = plan_rebind(library, BaseOptions(source=str(moved)))
        rebind(library, plan)
        with pytest.raises(LibraryError, match="old@1 was changed meanwhile"):
            rebind(library, plan)
        assert library.registry.resolve("else").base == str(other_folder)

    again: list[bool] = []
    honest = fingerprint._first_rule

    def watched(*given: Any, again_too: list[bool] = again, **options: bool) -> str:
        again_too.append(options.get("again", False))
        return honest(*given, **options)

    monkeypatch.setattr(fingerprint, "_first_rule", watched)
    run("library", "rebind", moved, "--json")
    assert again[0] is True


def test_a_prompt_of_before_is_served_listed_found_and_routed_to(tmp_path: Path, home: Path) -> None:
    folder = save_base(tmp_path / "base")
    base = FrozenBase.load(str(folder))
    prompt = some_prompt(base, "old", labels=LABELS)
    centroid = SoftPrompt(prompt.vectors_PD, prompt.card, prompt.vectors_PD[0])
    with Library.open(home) as library:
        library.publish(of_before(centroid, folder).to_bytes(), base=base.address)
        library.publish(some_prompt(base, "new", seed=1, labels=LABELS).to_bytes(), base=base.address)
        assert choose_base(library) == (str(folder), None)  # two fingerprints, and one base
        assert [(row.id, row.version) for row in list_models(library, base)] == [("new", 1), ("old", 1)]
        assert find_model(library, base, "old").versions == (1,)
        assert Centroids(library, base.fingerprints).refresh().tasks == ["old"]
        residents = Residents(library, base, max_bytes=1 << 20, max_prompts=9)
        assert residents.get("old").version == residents.get("old@1").version == 1
        residents.close()
        service = AsyncService(library, base, ContinuousEngine(architecture_of(base)))
        assert service.fingerprint == base.fingerprint
        service.engine.stop(drain=False, timeout=5)
        service.close()


def test_a_prompt_of_before_on_an_adapted_base_needs_that_adapter(tmp_path: Path, home: Path) -> None:
    folder, adapter = save_base(tmp_path / "base"), make_adapter(tmp_path / "lora")
    base = FrozenBase.load(str(folder), adapter=str(adapter), device="cpu")
    with Library.open(home) as library:
        prompt = of_before(some_prompt(base, "old", labels=LABELS), folder, adapter)
        library.publish(prompt.to_bytes(), base=base.address)
        assert Service(library, base=base).predict(["red"], "old")[0].output in LABELS
        with pytest.raises(FingerprintMismatch):
            Service(library).predict(["red"], "old")


def test_a_server_says_that_the_base_of_most_tasks_is_gone(moved: Path, home: Path, run: Run) -> None:
    with Library.open(home) as library:
        library.registry.delete("else@1")
    message = run("serve", "--port", "0").refused()
    assert "there is no such folder any more; give the place it has moved to with --base" in message


def test_an_import_of_a_moved_base_names_it(tmp_path: Path, home: Path, run: Run, other_folder: Path) -> None:
    folder = save_base(tmp_path / "base")
    base = FrozenBase.load(str(folder))
    file = of_before(some_prompt(base, "old", labels=LABELS), folder).save(tmp_path / "old.safetensors")
    now = folder.rename(tmp_path / "now")
    assert run("import", file, "--base", now, "--json").rows[0]["base"] == str(now)
    message = run("import", file, "--base", other_folder, "--json").refused()
    assert fingerprint_of_folder(other_folder) in message
    assert run("predict", "old", "red", "--json").rows[0]["output"] in LABELS


def test_verify_reads_all_of_a_base_again_and_puts_right_what_was_remembered(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "SETTLED_S", -1e9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = save_base(tmp_path / "base")
    (row,) = run("base", "verify", folder, "--json").rows
    assert (row["ok"], row["fingerprint"]) == (True, fingerprint_of_folder(folder))
    assert row["bytes"] == (folder / "model.safetensors").stat().st_size
    (remembered,) = (tmp_path / "cache").rglob("fingerprints/*")
    remembered.write_text("0" * 32)
    done = run("base", "verify", folder, "--json")
    assert done.code == 1
    assert '"ok":false' in done.out
    assert "was remembered of these files is not what they hold" in done.err
    assert run("base", "verify", folder, "--json").rows == [row]
    (folder / "model.safetensors").write_bytes(b"x")
    assert "cut short" in run("base", "verify", folder, "--json").refused()


def test_the_fingerprint_is_shown_in_full(tmp_path: Path, run: Run, base_folder: Path) -> None:
    whole = fingerprint_of_folder(base_folder)
    assert whole in run("base", "show", base_folder).out
    assert whole in run("base", "verify", base_folder).out
    assert run("base", "show", base_folder, "--json").rows[0]["fingerprint"] == whole
    shutil.copytree(base_folder, tmp_path / "copy")
    assert run("base", "show", tmp_path / "copy", "--json").rows[0]["fingerprint"] == whole
