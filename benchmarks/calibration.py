"""What the temperature in a prompt's card does to its probabilities, on rows that nothing has seen.

    python benchmarks/calibration.py --json                              # builtin/tiny, three seeds
    python benchmarks/calibration.py --json --model models/smollm2.gguf --seeds 0

A prompt is trained on each task with the default recipe; training fits the temperature on its validation rows. The test rows
are answered, and their labels' probabilities are taken as they come (`raw`, as `classify` gives them) and at the temperature
(`calibrated`, as `/v1/decisions` does): expected calibration error in bins of equal width (a suite's `calibration`), and log
loss. `gain` is the raw figure less the calibrated one, above 0 where the temperature helps, and `low` to `high` is its
interval of 95% over rows drawn anew. `best` is the log loss at the temperature that the test rows themselves would have
chosen: next to no other does better there.
Data from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

from benchmarks.row import Row, print_row
from benchmarks.tasks import REAL, make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.evaluation.statistics.calibration import calibrated, fit_temperature
from softprompt.evaluation.suites.measures import calibrate
from softprompt.library.library import Library
from softprompt.progress import Mute
from softprompt.prompts.card import TEMPERATURE
from softprompt.serving.offline import Service
from softprompt.tasks.task import Task
from softprompt.training.train import train

BINS = 15
DRAWS = 1000

Chances = list[list[float]]
"""Of each row the probability of each label."""


def answered(library: Library, task: Task, base: FrozenBase) -> tuple[Chances, list[int]]:
    """What the test rows are answered, and the place of each right label."""
    labels, rows = task.form.labels, list(task.test)
    assert labels is not None
    said = Service(library, base=base).predict(rows, task.name)
    right = [labels.index(task.form.answer(row, "a test row")) for row in rows]
    return [[(one.scores or {})[label] for label in labels] for one in said], right


def error_of(chances: Chances, right: Sequence[int]) -> float:
    """The expected calibration error."""
    sure = [max(row) for row in chances]
    hits = [row.index(top) == place for row, top, place in zip(chances, sure, right, strict=True)]
    return calibrate(sure, hits, BINS).error.value


def losses(chances: Chances, right: Sequence[int]) -> list[float]:
    """Of each row the log loss."""
    return [-math.log(max(row[place], 1e-300)) for row, place in zip(chances, right, strict=True)]


def at(chances: Chances, temperature: float) -> Chances:
    """The same at a temperature."""
    return [calibrated([math.log(max(one, 1e-300)) for one in row], temperature) for row in chances]


def gains(raw: Chances, warm: Chances, right: Sequence[int]) -> dict[str, Any]:
    """Both figures of both, and what is gained, with its interval."""
    found: dict[str, Any] = {}
    draw = np.random.default_rng(0).integers(len(right), size=(DRAWS, len(right)))
    less = np.subtract(losses(raw, right), losses(warm, right))
    drawn = {"log_loss": less[draw].mean(1)}
    drawn["ece"] = np.asarray(
        [
            error_of([raw[row] for row in rows], places) - error_of([warm[row] for row in rows], places)
            for rows in draw[:200].tolist()
            for places in [[right[row] for row in rows]]
        ]
    )
    for name, of in (("ece", error_of), ("log_loss", lambda *given: float(np.mean(losses(*given))))):
        before, after = of(raw, right), of(warm, right)
        low, high = np.quantile(drawn[name], (0.025, 0.975))
        figures = {"raw": before, "calibrated": after, "gain": before - after, "low": low, "high": high}
        found |= {f"{name}_{key}": round(float(value), 4) for key, value in figures.items()}
    return found


def run(model: str, names: Sequence[str], seeds: Sequence[int], overrides: dict[str, Any]) -> Iterator[Row]:
    """A row for each task and seed."""
    for seed in seeds:
        tasks = make_tasks(names, seed, {"base": model, "max_baseline_samples": 64} | overrides)
        base = FrozenBase.load(tasks[0].base_options)
        with tempfile.TemporaryDirectory() as folder, Library.open(folder) as library:
            train(tasks, base=base, library=library, progress=Mute())
            for task in tasks:
                raw, right = answered(library, task, base)
                temperature = library.registry.resolve(task.name).card.recipe[TEMPERATURE]
                hits = [row.index(max(row)) == one for row, one in zip(raw, right, strict=True)]
                own = fit_temperature(raw, right)
                assert own is not None
                yield {
                    "task": task.name, "model": model, "seed": seed, "temperature": temperature, "test_rows": len(right),
                    "accuracy": round(sum(hits) / len(hits), 4),
                    **gains(raw, at(raw, temperature), right),
                    "best_temperature": own, "log_loss_best": round(float(np.mean(losses(at(raw, own), right))), 4),
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin/tiny")
    parser.add_argument("--tasks", nargs="+", default=REAL, choices=REAL)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    overrides = {} if options.max_steps is None else {"max_steps": options.max_steps}
    for row in run(options.model, options.tasks, options.seeds, overrides):
        print_row(row, options.json)


if __name__ == "__main__":
    main()
