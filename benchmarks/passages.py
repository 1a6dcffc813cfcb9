"""What a prompt gains that is tuned with retrieved passages, over one that is tuned without them.

    python benchmarks/passages.py --json
    python benchmarks/passages.py --base models/smollm2.gguf --steps 60 --json

The data are made by program: a folder with a text about each of many people, of invented names, that says two of three facts
(where they live, what they work as, which animal they have), and questions about all three. The answer to the third does not
stand in the texts and is `unknown`. Passages are found in the folder by the question (`retrieve`), the same for all prompts.
Test questions are about people that no training question is about, so that what training rows say does not help.

For each seed a prompt is tuned on questions behind their passages, and one on the bare questions, and each is tried both
ways, as is no prompt at all. A row for each: exact match, precision, recall and F1 of saying `unknown`, and the share of the
other answers whose words all stand in the passages; then the gain of the one tuned with passages over each of the others.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.row import Row, print_row
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.progress import Bars
from softprompt.tasks.task import Task
from softprompt.training.train import train

FACTS = {
    "{name} lives in {value}.": ("Where does {name} live?", "Rome Paris Berlin London Madrid Vienna Oslo Cairo".split()),
    "{name} works as a {value}.": (
        "What does {name} work as?",
        "baker teacher farmer doctor pilot painter cook judge".split(),
    ),
    "{name} has a {value}.": ("Which animal does {name} have?", "dog cat horse goat pig duck mouse fox".split()),
}
UNKNOWN = "unknown"
BEHIND, BARE = "{passages}\nQuestion: {question}\nAnswer:", "Question: {question}\nAnswer:"


def made(people: int, seed: int) -> tuple[dict[str, str], list[list[Row]]]:
    """The text about each person by name, and the questions about each."""
    draw = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < people:
        names["".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3)).capitalize()] = None
    texts, questions = {}, []
    for name in names:
        said, asked = [], []
        missing = draw.choice(list(FACTS))
        for fact, (question, values) in FACTS.items():
            value = draw.choice(values)
            if fact != missing:
                said.append(fact.format(name=name, value=value))
            asked.append({"question": question.format(name=name), "answer": UNKNOWN if fact == missing else value})
        texts[name] = " ".join(draw.sample(said, len(said)))
        questions.append(asked)
    return texts, questions


def make_tasks(folder: Path, args: argparse.Namespace, seed: int) -> dict[str, Task]:
    """The task with passages and the one without, on the same rows."""
    texts, questions = made(args.people + args.test_people, seed)
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    rows = [[row for asked in part for row in asked] for part in (questions[: args.people], questions[args.people :])]
    whole = Task(
        task=f"passages-{seed}",
        data={"train": rows[0], "validation": 0.2, "test": rows[1]},
        retrieve={"folder": str(folder), "k": args.k},
        no_answer=UNKNOWN,
        input=BEHIND,
        target=" {answer}",
        max_new_tokens=6,
        num_virtual_tokens=args.P,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        eval_per_epoch=1,
        max_baseline_samples=1,  # what no prompt says is a row of its own
        seed=seed,
    )
    return {"passages": whole, "question": whole.variant(task=f"question-{seed}", input=BARE, retrieve=None)}


def measure(base: FrozenBase, args: argparse.Namespace, seed: int, folder: Path, progress: Bars) -> list[Row]:
    """The rows of one seed."""
    tasks = make_tasks(folder, args, seed)
    trained = dict(zip(tasks, train(list(tasks.values()), base=base, publish=False, progress=progress), strict=True))
    prompts = {name: tuned.prompt.vectors_PD.to(base.dtype) for name, tuned in trained.items()}
    prompts["nothing"] = prompts["passages"][:0]
    keys, trials = [], []
    for on, task in tasks.items():
        for name, vectors_PD in prompts.items():
            keys.append((name, on))
            trials.append(Trial(task.form, vectors_PD, task.encode(base, task.test, len(vectors_PD), split="test")))
    with progress.stage("judge", sum(len(trial.examples) for trial in trials)) as advance:
        reports = dict(zip(keys, result_of(judge(OfflineEngine(architecture_of(base)), trials), advance), strict=True))
    known = {"seed": seed, "P": args.P, "steps": args.steps, "rows": len(tasks["passages"].test)}
    rows: list[Row] = []
    for (name, on), report in reports.items():
        others = {metric: round(value, 4) for metric, value in report.others.items()}
        scores = {"value": round(report.value, 4), "stderr": round(report.stderr, 4), **others}
        rows.append({**known, "tuned_on": name, "tried_on": on, "metric": report.metric, **scores})
    best = reports["passages", "passages"].value
    for name, on in (("question", "question"), ("question", "passages"), ("nothing", "passages")):
        rows.append({"seed": seed, "gain_over": name, "tried_on": on, "gain": round(best - reports[name, on].value, 4)})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="builtin/tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--people", type=int, default=200, help="that training questions are about, a fifth held out")
    parser.add_argument("--test-people", type=int, default=60)
    parser.add_argument("--k", type=int, default=2, help="passages of an input")
    parser.add_argument("--P", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args(arguments)
    base, progress = FrozenBase.load(args.base, dtype=args.dtype), Bars()
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as home:
            for row in measure(base, args, seed, Path(home) / "texts", progress):
                print_row({"base": base.name, **row}, args.json)


if __name__ == "__main__":
    main()
