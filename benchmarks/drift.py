"""How often drift is seen where there is none, and after how many rows it is where there is.

    python benchmarks/drift.py --json                              # builtin/tiny
    python benchmarks/drift.py --json --model models/smollm2.gguf

A prompt is trained on trec6 for a few steps, without 1,500 training rows that are kept back as traffic. False alarms:
windows drawn from those rows, each row once at most, at a stated rate. Delay: traffic that turns into subjectivity's, behind
a full window of 1,024 rows and from nothing; a look every 64 rows. Cost: of a row, on the event loop and in the thread that
tallies.
Data from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

from benchmarks.row import Row, print_row
from benchmarks.tasks import make_tasks
from softprompt.bases.base import FrozenBase
from softprompt.evaluation.reference import Reference, Seen, Tally
from softprompt.evaluation.statistics.drift_tests import judge_rows
from softprompt.library.library import Library
from softprompt.lifecycle.drift.drift import answer_rows
from softprompt.lifecycle.drift.watch import BUCKET, BUCKETS, Watcher
from softprompt.progress import Mute
from softprompt.rows.places import numbered
from softprompt.tasks.form import Form
from softprompt.training.train import train

LEVELS = (1e-3, 1e-2)
Z = 1.645


def upper(count: int, of: int) -> float:
    """The upper end of the 95% interval of a rate (Wilson, one side)."""
    share = count / of
    return (share + Z * Z / (2 * of) + Z * math.sqrt(share * (1 - share) / of + (Z / (2 * of)) ** 2)) / (1 + Z * Z / of)


def tallies(reference: Reference, base: FrozenBase, seen: Sequence[Seen]) -> list[Tally]:
    """Each row by itself."""
    return [reference.count(base, [row]) for row in seen]


def false_alarms(reference: Reference, rows: Sequence[Tally], draws: int) -> Iterator[Row]:
    """How often windows of rows that are alike are said to have drifted."""
    draw = random.Random(0)
    for size in (64, 256, 1024):
        alarms: Counter[float] = Counter()
        kinds: Counter[str] = Counter()
        for _ in range(draws):
            window = reduce(add, draw.sample(rows, size))
            for level in LEVELS:
                moved = [one.what for one in judge_rows(reference, window, level=level) if one.drifted]
                alarms[level] += bool(moved)
                kinds.update(moved if level == LEVELS[-1] else ())
        for level in LEVELS:
            yield {
                "what": "false alarms", "window": size, "level": level, "looks": draws, "alarms": alarms[level],
                "rate": alarms[level] / draws, "upper": round(upper(alarms[level], draws), 5), "kinds": dict(kinds),
            }  # fmt: skip


def delays(reference: Reference, rows: Sequence[Tally], others: Sequence[Tally], repeats: int) -> Iterator[Row]:
    """Rows of another kind until the first look that sees them, by how many of the rows that come are of it."""
    draw = random.Random(0)
    for before, share in ((0, 1.0), (BUCKET * BUCKETS, 1.0), (BUCKET * BUCKETS, 0.2)):
        found = []
        for _ in range(repeats):
            coming = iter(draw.sample(others, len(others)))
            alike = iter(draw.sample(rows, len(rows)))
            buckets = deque([reduce(add, (next(alike) for _ in range(BUCKET))) for _ in range(before // BUCKET)], BUCKETS)
            sent = 0
            for _ in range(8):
                bucket = [next(coming if draw.random() < share else alike) for _ in range(BUCKET)]
                sent += BUCKET
                buckets.append(reduce(add, bucket))
                if any(one.drifted for one in judge_rows(reference, reduce(add, buckets))):
                    break
            else:
                sent = -1
            found.append(sent)
        seen = sorted(one for one in found if one > 0)
        yield {
            "what": "delay", "window_before": before, "share": share, "repeats": repeats, "missed": found.count(-1),
            "median_rows": seen[len(seen) // 2] if seen else None, "most_rows": seen[-1] if seen else None,
        }  # fmt: skip


def costs(reference: Reference, base: FrozenBase, library: Library, seen: Sequence[Seen]) -> Iterator[Row]:
    """Microseconds of a row."""
    some = list(seen[: BUCKET * 8])
    began = time.perf_counter()
    for start in range(0, len(some), BUCKET):
        reference.count(base, some[start : start + BUCKET])
    tallied = (time.perf_counter() - began) / len(some)
    watcher = Watcher(library)
    began = time.perf_counter()
    for row in some:
        watcher.saw("default", "trec6", 1, row, None, "")
    queued = (time.perf_counter() - began) / len(some)
    tally = reduce(add, tallies(reference, base, some))
    began = time.perf_counter()
    judge_rows(reference, tally)
    yield {
        "what": "cost", "queued_us": round(queued * 1e6, 2), "tallied_us": round(tallied * 1e6, 1),
        "look_ms": round((time.perf_counter() - began) * 1e3, 2),
    }  # fmt: skip


def run(model: str, steps: int, traffic: int, draws: int) -> Iterator[Row]:
    """All rows."""
    (task,) = make_tasks(["trec6"], 1, {"base": model, "max_steps": steps, "max_baseline_samples": 64})
    (other,) = make_tasks(["subjectivity"], 1, {"base": model})
    rows = list(task.train)
    random.Random(0).shuffle(rows)
    kept = {"train": rows[traffic:], "validation": list(task.validation), "test": list(task.test)}
    base = FrozenBase.load(task.base_options)
    with tempfile.TemporaryDirectory() as folder, Library.open(folder) as library:
        began = time.perf_counter()
        (tuned,) = train(task.variant(data=kept), base=base, library=library, progress=Mute())
        seconds = time.perf_counter() - began
        version = library.registry.resolve("trec6")
        told = library.registry.windows.reference(version)
        reference = Reference.read(told)
        assert reference is not None
        form = Form.of_card(version.card)
        began = time.perf_counter()
        alike = answer_rows(library, version, form, base, numbered(rows[:traffic], "the traffic"), Mute())
        answered = (time.perf_counter() - began) / traffic
        strange = answer_rows(library, version, form, base, numbered(other.test[:600], "another task"), Mute())
        began = time.perf_counter()
        Reference.of(base, {"tuned": ([row.ids for row in alike[:1024]], []), "judged": ([row.ids for row in strange], [])})
        yield {
            "what": "training", "model": model, "value": tuned.report.value, "seconds": round(seconds, 1),
            "reference_ms": round((time.perf_counter() - began) * 1e3, 1), "answer_us": round(answered * 1e6),
            "samples": [one.tally.rows for one in reference.samples],
        }  # fmt: skip
        own, others = tallies(reference, base, alike), tallies(reference, base, strange)
        yield from costs(reference, base, library, alike)
        yield from delays(reference, own, others, 50)
        yield from false_alarms(reference, own, draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin/tiny")
    parser.add_argument("--max-steps", type=int, default=100)
    parser.add_argument("--traffic", type=int, default=1500)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for row in run(options.model, options.max_steps, options.traffic, options.draws):
        print_row(row, options.json)


if __name__ == "__main__":
    main()
