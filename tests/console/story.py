"""A library with something on every page of the console: tuned, judged, compared, asked, reviewed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.errors import PromotionRefused
from softprompt.evaluation.reference import Reference
from softprompt.evaluation.suites.run import run_suites
from softprompt.library.library import Library
from softprompt.lifecycle import experiments, feedback
from softprompt.lifecycle.drift.drift import answer_rows
from softprompt.progress import Silent
from softprompt.registry.records import now
from softprompt.registry.traffic.reviews import Review
from softprompt.registry.traffic.windows import Window, key_of
from softprompt.tasks import samples
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task
from softprompt.training.train import train

HOSTILE = ("<b>yes</b>", "\"no\" & 'maybe'", "{{ 7 * 7 }}")
"""Labels that must be shown as they are."""
MARKS = "<script>alert(1)</script>"


def write(rows: Sequence[dict[str, Any]], file: Path) -> Path:
    """Rows as JSON Lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def build(home: Path) -> None:
    """Make it, in a minute."""
    data = home.parent / "data"
    base = FrozenBase.load(BaseOptions(dtype="float32", device="cpu"))
    remarks, questions = samples.remarks()[:300], samples.questions()[:300]
    odd = [{"text": f"row {at} {MARKS}", "label": HOSTILE[at % 3]} for at in range(90)]
    files = {"remarks": remarks, "questions": questions, "odd": odd, "headword": samples.headwords()[:120]}
    paths = {name: str(write(rows, data / f"{name}.jsonl")) for name, rows in files.items()}

    def task(name: str, **more: Any) -> Task:
        told: dict[str, Any] = {
            "input": "{text}\nLabel:",
            "target": " {label}",
            "max_eval_samples": 30,
            "max_baseline_samples": 30,
            "num_virtual_tokens": 20,
        }
        return Task(task=name, base="builtin/tiny", data={"train": paths[name]}, **told | more)

    remark: dict[str, Any] = {"input": "Review: {text}\nSentiment:", "labels": ["positive", "negative"]}
    with Library.open(home, actor="ann") as library:
        first = [
            task("remarks", **remark, max_steps=24),
            task("questions", input="{text}\nIt wants a", labels="person location number description".split(), max_steps=16),
            task("odd", labels=list(HOSTILE), max_steps=6),
            task("headword", input="Definition: {definition}\nWord:", target=" {headword}", max_new_tokens=8, max_steps=6),
        ]  # fmt: skip
        train(first, library=library, base=base)
        train(
            task("remarks", **remark, max_steps=30, seed=1),
            library=library,
            base=base,
        )
        train(task("remarks", **remark, learning_rate=1e-5, max_steps=1), library=library, base=base)
        library.registry.tag("remarks@2", add=["language:en", "reviewed"])
        library.registry.tag("questions@1", add=["language:en"])
        library.promote("remarks@1", reason="the first that was good enough")
        library.promote("remarks@2", reason="more steps")
        library.promote("questions@1", "canary")
        suite = home.parent / "polite.yaml"
        suite.write_text("metrics: [accuracy, f1]\nperturb: [case]\ncalibration: 5\ntolerance: 0.02\n", encoding="utf-8")
        run_suites(["remarks@1", "remarks@2", "remarks@3"], suite, library=library, base=base)
        try:
            library.promote("remarks@3")
        except PromotionRefused:
            pass
        else:
            raise AssertionError("the gate let a version through that was not trained")
        _compare(library)
        _review(library)
        _ask(library, base, [str(row["text"]) for row in questions[:120]])


def _compare(library: Library) -> None:
    experiments.start(library, "remarks", control="2", candidate="1", weight=0.3)
    for at in range(60):
        arm = "remarks@1" if at % 3 == 0 else "remarks@2"
        feedback.take(library, model="remarks", user=f"user-{at}", outcome=float(at % (3 if arm.endswith("1") else 7) != 0))


def _review(library: Library) -> None:
    texts = ["not bad at all, I think", "well.", f"I would say {MARKS}", "it came, it broke, it went"]
    rows = [Review(0, "remarks", 2, text, "positive", 0.5 + at / 20) for at, text in enumerate(texts)]
    library.registry.reviews.add("remarks", rows)
    library.registry.reviews.add("odd", [Review(0, "odd", 1, MARKS, HOSTILE[0], 0.41)])


def _ask(library: Library, base: FrozenBase, texts: list[str]) -> None:
    """What a server saw of a version: questions, where it was tuned for remarks."""
    version = library.registry.resolve("remarks@2")
    told = library.registry.windows.reference(version)
    reference = Reference.read(told)
    assert reference is not None
    rows = [{"text": text} for text in texts]
    seen = answer_rows(library, version, Form.of_card(version.card), base, rows, Silent())
    tally = reference.count(base, seen)
    window = Window("a-server", tally.rows, {**tally.told(), "reference": key_of(told)}, now(), now())
    library.registry.windows.store("a-server", {(version.task, version.number): window})
