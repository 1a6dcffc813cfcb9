"""The public interface, pinned: a name that comes or goes is a decision."""

from __future__ import annotations

from importlib import import_module

import pytest

import softprompt
from softprompt import errors

NAMES = [
    "BaseOptions",
    "Card",
    "Combined",
    "Corrected",
    "Distilled",
    "Drifted",
    "Evaluation",
    "Finding",
    "FrozenBase",
    "Inspected",
    "Library",
    "Likeness",
    "Outcome",
    "Personalized",
    "Prediction",
    "ReportCard",
    "Retrained",
    "Service",
    "SoftPrompt",
    "SoftPromptError",
    "Swept",
    "Task",
    "TaskConfig",
    "Tuned",
    "Upgraded",
    "Version",
    "combine",
    "compare",
    "correct",
    "diagnose",
    "distill",
    "drift",
    "evaluate",
    "inspect",
    "likenesses",
    "personalize",
    "plan",
    "predict",
    "report",
    "retrain",
    "run_suites",
    "sweep",
    "train",
    "train_on_ray",
    "upgrade",
]


def test_the_public_names_are_these() -> None:
    assert softprompt.__all__ == NAMES
    assert dir(softprompt) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(softprompt, name)
    assert value.__name__ == name
    assert value.__doc__
    assert value.__module__.startswith("softprompt.")
    assert getattr(import_module(value.__module__), name) is value


def test_a_name_that_is_not_there_is_told() -> None:
    with pytest.raises(AttributeError, match="module 'softprompt' has no attribute 'Trainer'"):
        softprompt.Trainer  # noqa: B018


def test_star_import_gives_the_public_names_alone() -> None:
    names: dict[str, object] = {}
    exec("from softprompt import *", names)
    assert sorted(name for name in names if not name.startswith("__")) == sorted(NAMES)


def test_every_error_of_the_package_has_one_root_and_stands_in_its_drawing() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(kinds) > 10
    drawn = [
        line.strip("│├└─ ").split()[0] for line in (errors.__doc__ or "").splitlines() if "Error" in line or "─" in line
    ]
    for kind in kinds:
        assert issubclass(kind, softprompt.SoftPromptError)
        assert kind.__name__ in drawn
        assert kind.__doc__


def test_nearest_names_the_closest_known_name() -> None:
    assert errors.nearest("lables", ["labels", "data"]) == "; did you mean 'labels'?"
    assert errors.nearest("zzz", ["labels", "data"]) == "; known: data, labels"
    assert errors.nearest("zzz", []) == ""
    assert errors.nearest("zzz", map(str, range(30))).endswith(", ...")
