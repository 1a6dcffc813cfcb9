"""Tasks carried to another base: what the vectors become, what is promoted, and that nothing is done twice."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch

from softprompt import upgrade
from softprompt.bases.base import FrozenBase
from softprompt.bases.spelling import Spelling
from softprompt.errors import ConfigError, TrainingStopped
from softprompt.library.library import Library
from softprompt.lifecycle import carry
from softprompt.lifecycle import upgrade as module
from softprompt.progress import Mute
from softprompt.prompts.prompt import SoftPrompt
from softprompt.training.session import Session
from softprompt.training.train import train
from tests.lifecycle.rows import ROWS, a_task, data_file
from tests.models import make_base, some_prefix, some_prompt, steerable_base, tokenizer


def rotated(base: FrozenBase) -> tuple[FrozenBase, torch.Tensor]:
    """The same base with its embeddings turned, and how."""
    model = copy.deepcopy(base.model)
    turn_DD = torch.linalg.qr(torch.randn(base.width, base.width, generator=torch.Generator().manual_seed(3))).Q
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(base.embedding.weight @ turn_DD)
    return FrozenBase.wrap(model, tokenizer(), name="turned"), turn_DD


def test_vectors_follow_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry, "FEWEST", 20)
    monkeypatch.setattr(carry, "RIDGE", 1e-9)
    old = make_base("llama")
    new, turn_DD = rotated(old)
    drawn_PD = torch.randn(4, old.width, generator=torch.Generator().manual_seed(5)) * 7
    torch.testing.assert_close(carry.carried(drawn_PD, old, new)["map"], drawn_PD @ turn_DD, rtol=1e-3, atol=1e-3)
    ids = [*carry.texts_of(old).values()][3:7]
    tokens_PD = old.embed(torch.tensor(ids)).detach() * 1.5
    near_PD = carry.carried(tokens_PD, old, new)["nearest"]
    torch.testing.assert_close(near_PD, new.embed(torch.tensor(ids)).detach())


def test_bases_that_share_no_tokens_carry_nothing() -> None:
    old = make_base("llama")
    assert carry.carried(torch.randn(2, old.width), old, make_base("gpt2")) == {}  # fewer than it takes


def test_a_task_that_is_worse_is_trained_and_not_promoted(
    library: Library, other_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry, "FEWEST", 20)
    monkeypatch.setattr("softprompt.registry.gate.STANDARD_ERRORS", 0.0)
    (row,) = upgrade(to=str(other_folder), library=library, progress=Mute())
    assert (row.old_version, row.new_version, row.old, row.rows) == (1, 2, 1.0, 4)
    assert row.recycled is not None
    assert row.value is not None
    new = library.registry.resolve("kind@2")
    assert new.fingerprint == FrozenBase.load(str(other_folder)).fingerprint
    assert new.card.recipe["upgrade"]["start"] == row.start
    assert library.registry.aliases.of("kind") == {"production": 1 if row.value < 1 else 2}
    assert row.promoted is (row.value == 1.0)
    assert library.registry.resolve("kind").number == (1 if row.value < 1 else 2)


def test_the_start_that_trains_better_wins_and_is_trained_as_if_alone(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt_PD = SoftPrompt.from_bytes(library.read(library.registry.resolve("kind"))).vectors_PD
    (alone,) = train(a_task(tmp_path), base=steerable_twin(), publish=False, progress=Mute())
    for number, (name, vectors_PD) in enumerate({"map": learnt_PD, "nearest": -900 * learnt_PD}.items(), 2):
        monkeypatch.setattr(module, "carried", lambda *_, made={name: vectors_PD}: dict(made))
        base = twin_number(number)
        (row,) = upgrade("kind@1", to=base, library=library, progress=Mute())
        assert row.start == ("map" if name == "map" else "LABELS"), "what was learnt leads at once; its opposite never"
        new = library.registry.resolve(f"kind@{row.new_version}")
        assert (new.card.recipe["upgrade"]["start"], row.value) == (row.start, 1.0)
        assert new.card.metrics["untrained"] == (1.0 if name == "map" else alone.prompt.card.metrics["untrained"])
        if name == "nearest":
            torch.testing.assert_close(
                SoftPrompt.from_bytes(library.read(new)).vectors_PD, alone.prompt.vectors_PD, rtol=0.0, atol=2e-3
            )


def test_an_upgrade_ends_no_worse_than_where_it_began_and_chooses_at_half(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt_PD = SoftPrompt.from_bytes(library.read(library.registry.resolve("kind"))).vectors_PD
    monkeypatch.setattr(module, "carried", lambda *_: {"map": learnt_PD})
    dropped = list[int]()
    drop = Session.drop
    monkeypatch.setattr(Session, "drop", lambda self, member: (dropped.append(member.run.step), drop(self, member))[1])
    harmful = a_task(tmp_path, learning_rate=30.0, max_steps=12)
    (row,) = upgrade("kind@1", to=steerable_twin(), task_files=[harmful], library=library, progress=Mute())
    assert (row.start, row.recycled, row.value, row.best_step, row.steps) == ("map", 1.0, 1.0, 0, 12)
    assert dropped == [6]
    assert "none of 12 steps was better on validation rows than where it started" in row.reason
    new = SoftPrompt.from_bytes(library.read(library.registry.resolve(f"kind@{row.new_version}")))
    assert torch.equal(new.vectors_PD, learnt_PD)


def test_an_input_begins_as_texts_of_the_new_base_do(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spelling, "begins_with", property(lambda self: "<end>" if self._name == "trained/twin" else None))
    base = steerable_twin()
    assert base.spelling.begins_with == "<end>"
    (row,) = upgrade("kind@1", to=base, library=library, progress=Mute())
    kept = library.registry.origin(f"kind@{row.new_version}")
    assert kept is not None
    assert kept.task_file["input"] == "<end> {text} ="
    assert library.registry.resolve(f"kind@{row.new_version}").card.input == "<end> {text} ="
    assert "`input` begins with <end> now" in row.reason


def test_an_input_does_not_begin_as_texts_of_the_old_base_do(tmp_path: Path, old_folder: Path) -> None:
    old, new = FrozenBase.load(str(old_folder)), make_base("gpt2")
    told = next(iter(old.spelling.controls))
    other = copy.copy(new)
    other.__dict__["spelling"] = copy.copy(new.spelling)
    other.spelling.__dict__["controls"] = {}
    for starts in (True, False):  # in a folder whose tokenizer begins texts with it, and in one that does not
        with Library.open(tmp_path / f"home-{starts}") as library, pytest.MonkeyPatch.context() as patch:
            begins = property(lambda self, known=starts: told if known and self is not other.spelling else None)
            patch.setattr(Spelling, "begins_with", begins)
            train(
                a_task(tmp_path, base=str(old_folder), input=f"{told} {{text}} =", max_steps=1),
                library=library, progress=Mute(),
            )  # fmt: skip
            (row,) = upgrade("kind", to=other, library=library, progress=Mute())
            kept = library.registry.origin(f"kind@{row.new_version}")
            assert kept is not None
            assert kept.task_file["input"] == (" {text} =" if starts else f"{told} {{text}} =")
            assert (f"`input` no longer begins with {told}" in row.reason) == starts
            assert ("a control token of the old base" in row.reason) == (not starts)


def test_a_contender_that_fails_leaves_the_other(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt_PD = SoftPrompt.from_bytes(library.read(library.registry.resolve("kind"))).vectors_PD
    monkeypatch.setattr(module, "carried", lambda *_: {"map": torch.full_like(learnt_PD, float("inf"))})
    (row,) = upgrade("kind@1", to=steerable_twin(), library=library, progress=Mute())
    assert (row.start, row.value, row.promoted, row.reason) == ("LABELS", 1.0, True, "as good, on the same 4 rows")


def test_a_task_that_is_as_good_is_promoted_and_not_done_again(
    library: Library, old_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry, "FEWEST", 20)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TrainingStopped, match="stopped; call the same command again"):
        upgrade("kind", to=steerable_twin(), library=library, progress=Mute(), stop=stop)
    assert library.registry.resolve("kind").number == 1
    gate = module.promote_if_as_good
    monkeypatch.setattr(module, "promote_if_as_good", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        upgrade("kind", to=steerable_twin(), library=library, progress=Mute())
    monkeypatch.setattr(module, "promote_if_as_good", gate)
    assert [one.number for one in library.registry.versions("kind")] == [1, 2]
    assert library.registry.resolve("kind").number == 1
    (row,) = upgrade("kind", to=steerable_twin(), library=library, progress=Mute())
    assert (row.new_version, row.value, row.promoted) == (2, 1.0, True)
    (again,) = upgrade("kind", to=steerable_twin(), library=library, progress=Mute())
    assert (again.old_version, again.new_version, again.old, again.value, again.promoted) == (1, 2, 1.0, 1.0, True)
    assert again.reason == "was upgraded before"
    assert upgrade(to=steerable_twin(), library=library, progress=Mute()) == []
    assert len(library.registry.versions("kind")) == 2
    assert library.registry.resolve("kind@2").card.parents in ((), (library.registry.resolve("kind@1").digest,))


def steerable_twin() -> FrozenBase:
    """The steerable base with other weights where nothing reads them: as good, and another base."""
    return twin_number(1)


def twin_number(number: int) -> FrozenBase:
    """Another for each number."""
    model = copy.deepcopy(steerable_base().model)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer().pad_token_id] += float(number)
    return FrozenBase.wrap(model, tokenizer(), name="trained/twin")


def test_rows_that_changed_are_named_and_the_old_version_is_judged_on_them(
    library: Library, tmp_path: Path, old_folder: Path
) -> None:
    data_file(tmp_path, [row | {"label": "yes"} for row in ROWS])
    (row,) = upgrade("kind", to=steerable_twin(), library=library, progress=Mute())
    assert "data changed since: train, test" in row.reason.replace("validation, ", "")
    assert row.old == 0.5


def test_what_cannot_be_carried_is_told_in_its_row(library: Library, tmp_path: Path, other_folder: Path) -> None:
    base = steerable_base()
    library.publish(some_prompt(base, "bare", labels=("yes", "no")).to_bytes(), base="x/y")
    library.publish(some_prompt(steerable_twin(), "there", labels=("yes", "no")).to_bytes(), base="x/twin")
    rows = {row.task: row for row in upgrade(["bare", "there"], to=steerable_twin(), library=library, progress=Mute())}
    assert "bare@1 came without the task file" in rows["bare"].reason
    assert "--task-file FILE" in rows["bare"].reason
    assert rows["there"].reason == "it is of this base already"
    assert module.failures(rows.values()) == 1
    with pytest.raises(ConfigError, match="task 'kind' is named twice"):
        upgrade(["kind", "kind@1"], to=steerable_twin(), library=library, progress=Mute())
    with pytest.raises(ConfigError, match="there is a task file of 'kind', which is not upgraded"):
        upgrade("bare", to=steerable_twin(), task_files=[a_task(tmp_path)], library=library, progress=Mute())
    (given,) = upgrade(
        "bare", to=steerable_twin(), task_files=[a_task(tmp_path, task="bare")], library=library, progress=Mute()
    )
    assert given.new_version == 2
    assert "nothing is carried over" in given.reason  # nobody knows where its base is


def test_a_prefix_starts_anew(library: Library, tmp_path: Path, old_folder: Path) -> None:
    prefix = some_prefix(FrozenBase.load(str(old_folder)), "deep", labels=("yes", "no"), input=" {text} =")
    library.publish(prefix.to_bytes(), base=str(old_folder))
    (row,) = upgrade(
        "deep",
        to=steerable_twin(),
        task_files=[a_task(tmp_path, task="deep", prompt_type="prefix", max_steps=2)],
        library=library,
        progress=Mute(),
    )
    assert (row.new_version, row.recycled) == (2, None)
    assert "a prefix has no vectors that another base knows" in row.reason


def test_control_tokens_that_the_new_base_does_not_know_are_told(tmp_path: Path, old_folder: Path) -> None:
    old, new = FrozenBase.load(str(old_folder)), make_base("gpt2")
    told = next(iter(old.spelling.controls))
    other = copy.copy(new)
    other.__dict__["spelling"] = copy.copy(new.spelling)
    other.spelling.__dict__["controls"] = {}
    with Library.open(tmp_path / "home") as library:
        task = a_task(tmp_path, base=str(old_folder), input=f"{told} {{text}} =", max_steps=1)
        train(task, library=library, progress=Mute())
        (row,) = upgrade("kind", to=other, library=library, progress=Mute())
        assert f"`input` holds {told!r}, a control token of the old base" in row.reason
        (row,) = upgrade("kind@1", to=steerable_twin(), library=library, progress=Mute())
        assert "control token" not in row.reason
