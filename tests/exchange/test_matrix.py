"""Every kind of prompt through every way out and back: the same bytes and answers, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softprompt import personalize
from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError, NameRefused
from softprompt.evaluation.combination import combine
from softprompt.exchange.bundle import bundle, unbundle
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.exchange.importing import import_prompt
from softprompt.exchange.tokens.export import export_tokens
from softprompt.exchange.tokens.wording import INFO
from softprompt.library.library import Library
from softprompt.progress import Mute
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.offline import Service
from softprompt.training.distill import distill
from softprompt.training.train import train
from tests.models import save_base

TEXTS = [f"the {one} {other}" for one in ("red", "blue", "good", "bad") for other in ("river", "stone", "apple")]
ASKED = ["a red stone", "good"]
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


def rows(*answers: str, column: str = "text") -> list[dict[str, str]]:
    return [{column: text, "label": answers[place % len(answers)]} for place, text in enumerate(TEXTS)]


def kinds(folder: Path) -> dict[str, dict[str, Any]]:
    """The task files, by what is the matter with each."""
    yes, written = {"labels": ["yes", "no"]}, {"target": " {label}", "max_new_tokens": 4}
    found: dict[str, dict[str, Any]] = {
        "plain": yes,
        "other": yes | {"seed": 1},
        "written": written | {"rows": rows("so yes", "so no")},
        "placed": yes | {"input": "Say: {soft_prompt} {text}"},
        "prefix": yes | {"prompt_type": "prefix", "learning_rate": 0.01},
        "passages": written | {
            "rows": rows("red", "", "stone", column="question"), "input": "{passages}\n{question}", "no_answer": "unknown",
            "retrieve": {"folder": str(folder), "k": 1},
        },
        "schema": written | {"rows": rows('{"ok": true}', '{"ok": false}'), "output_schema": SCHEMA, "max_new_tokens": 24},
        "unknown": {"rows": rows("yes", "", "no"), "labels": ["yes", "no", "unknown"], "no_answer": "unknown"},
        "ordered": {"rows": rows("1", "2", "9"), "labels": ["1", "2", "9"], "problem_type": "regression"},
        "number": written | {"rows": rows("1", "2", "9"), "problem_type": "regression"},
        "sets": {"rows": rows("a", "a;b", ""), "labels": ["a", "b"], "problem_type": "multi_label_classification"},
    }  # fmt: skip
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Library, FrozenBase, Path]]:
    """A library with a prompt of every kind, its base, and a folder of texts."""
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "texts").mkdir()
    (folder / "texts" / "one.txt").write_text("the red stone is in the river. " * 3)
    base = FrozenBase.load(str(save_base(folder / "base")), dtype="float32")

    def task(name: str, rows: list[dict[str, str]] = rows("yes", "no"), **fields: Any) -> dict[str, Any]:
        data = dict.fromkeys(("train", "validation", "test"), rows)
        return {"task": name, "data": data, "num_virtual_tokens": 3, "max_steps": 1, **fields}

    with Library.open(folder / "home") as library:
        files = [task(name, **fields) for name, fields in kinds(folder / "texts").items()]
        train(files, base=base, library=library, progress=Mute())
        distill(task("distilled", labels=["yes", "no"]), "Say yes.", base=base, library=library, progress=Mute())
        combine(["plain", "other"], "ensemble", task="ensemble", base=base, library=library, progress=Mute())
        small = SoftPrompt.from_bytes(library.read("plain")).as_dtype("int8")
        card = small.card.model_copy(update={"task": "small"})
        library.publish(replace(small, card=card).to_bytes(), base=base.address)
        personalize("plain", rows("no"), user="ann", steps=1, base=base, library=library, progress=Mute())
        yield library, base, folder


NAMES = [*kinds(Path()), "distilled", "ensemble", "small"]
REFUSED = {"ensemble": "is an ensemble of 2, which PEFT has no file for", "placed": r"stands at \{soft_prompt\} in .*PEFT"}
"""What PEFT cannot say."""


def answers(library: Library, base: FrozenBase, task: str, texts: Path) -> list[Any]:
    column = "question" if task.startswith("passages") else "text"
    service = Service(library, base=base, passages={"passages": str(texts)})
    return [(one.output, one.scores) for one in service.predict([{column: text} for text in ASKED], task)]


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_out_comes_back_as_it_was(made: tuple[Library, FrozenBase, Path], name: str, tmp_path: Path) -> None:
    library, base, folder = made
    version, data = library.registry.resolve(name), library.read(name)
    wanted = answers(library, base, name, folder / "texts")
    bundle(library, [name], tmp_path / "bundle")
    ours = export_prompt(library, name, tmp_path / "ours", Format.SOFTPROMPT).path
    with Library.open(tmp_path / "home") as other:
        (one,) = unbundle(other, tmp_path / "bundle", base=base.address)
        back = [f"{name}@{one.version}", import_prompt(other, ours, base=base.address).ref]
        if name in REFUSED:
            with pytest.raises(ConfigError, match=REFUSED[name]):
                export_prompt(library, name, tmp_path / "peft")
            assert not (tmp_path / "peft").exists()
        else:
            export_prompt(library, name, tmp_path / "peft")
            back.append(import_prompt(other, tmp_path / "peft", task=name).ref)
        for place, ref in enumerate(back):
            found = SoftPrompt.from_bytes(other.read(ref))
            if name == "small" and place == 2:  # PEFT knows floats alone
                found = replace(found, card=found.card.model_copy(update={"dtype": "int8"}))
            assert found.to_bytes() == data
            assert other.registry.resolve(ref).fingerprint == version.fingerprint
            assert answers(other, base, ref, folder / "texts") == wanted


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_as_tokens_says_all_that_is_asked_of_it(
    made: tuple[Library, FrozenBase, Path], name: str, tmp_path: Path
) -> None:
    library, _, _ = made
    if name in ("ensemble", "prefix"):
        with pytest.raises(ConfigError, match="is an ensemble of 2 prompts" if name == "ensemble" else "is a prefix"):
            export_tokens(library, [name], tmp_path / "out")
        return
    export_tokens(library, [name], tmp_path / "out")
    told = json.loads((tmp_path / "out" / INFO).read_text())["tasks"][name]
    assert told["card"] == json.loads(library.registry.resolve(name).card.canonical())
    readme = (tmp_path / "out" / "README.md").read_text()
    says = {
        "passages": "that it finds for `{question}`", "schema": "held to JSON", "ordered": '"9" 9',
        "number": "between 1 and 9", "sets": "Each label is asked apart",
    }  # fmt: skip
    assert {kind for kind, text in says.items() if text in readme} == {name} & {*says}


@pytest.mark.parametrize("form", [*Format, "bundle"])
def test_a_users_own_version_goes_nowhere(made: tuple[Library, FrozenBase, Path], form: str, tmp_path: Path) -> None:
    library, _, _ = made
    out = tmp_path / "out"
    with pytest.raises(NameRefused, match="'plain~ann'"):
        _ = (
            bundle(library, ["plain~ann"], out)
            if form == "bundle"
            else export_prompt(library, "plain~ann", out, Format(form))
        )
    assert not (tmp_path / "out").exists()
