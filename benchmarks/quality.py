"""Quality of prompts on real tasks, beside the baselines, PEFT and full fine-tuning of the same base.

    python benchmarks/quality.py --json                       # everything, three seeds
    python benchmarks/quality.py --methods ours --seeds 1     # a quick look

Trains trec6, subjectivity, sentence_polarity and headword (made by program) together with the default recipe. A row for each
method, task and seed as soon as it is known; then a row for each method and task with mean and spread (standard deviation
over the seeds). Data from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
os.environ.setdefault("SOFTPROMPT_DATA", str(HERE.parent.parent / "shared" / "data"))
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

import torch

from benchmarks.row import Row, print_row
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import chunk_by_length, stack_prompts
from softprompt.progress import Bars
from softprompt.tasks import samples
from softprompt.tasks.config import TaskConfig, parse_config, read_config
from softprompt.tasks.schedule import total_steps
from softprompt.tasks.task import Examples, Task
from softprompt.training.objectives import OBJECTIVES
from softprompt.training.train import train

REAL = ("trec6", "subjectivity", "sentence_polarity")


def make_tasks(names: Sequence[str], seed: int, overrides: dict[str, Any]) -> list[Task]:
    """The tasks with the default recipe and a seed."""
    tasks = []
    for name in names:
        if name == "headword":
            rows = samples.write_rows(samples.headwords(), HERE / "out" / "headwords.jsonl")
            config = parse_config(
                {
                    "task": "headword",
                    "data": {"train": str(rows)},
                    "input": "Definition: {definition}\nWord:",
                    "target": " {headword}",
                    "max_new_tokens": 8,
                }
            )
        else:
            config = read_config(HERE.parent / "examples" / f"{name}.yaml")
        tasks.append(Task(TaskConfig.model_validate(config.model_dump() | overrides | {"seed": seed})))
    return tasks


def ours(tasks: Sequence[Task], base: FrozenBase) -> Iterator[Row]:
    """All prompts in one bank."""
    for tuned in train(tasks, base=base, progress=Bars()):
        yield tuned.row()


def peft_defaults(tasks: Sequence[Task], base: FrozenBase) -> Iterator[Row]:
    """PEFT prompt tuning as it comes: random start, the Trainer's learning rate, batch and epochs."""
    for task in tasks:
        yield peft_run(task, base, {"prompt_tuning_init": "RANDOM"}, {})


def peft_ours(tasks: Sequence[Task], base: FrozenBase) -> Iterator[Row]:
    """PEFT prompt tuning with our hyperparameters, started from a text that lists the labels."""
    for task in tasks:
        config = task.config
        text = " ".join(config.labels or ["definition", "word"])
        start = {
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": text,
            "tokenizer_name_or_path": str(base.path),
        }
        arguments = {
            "learning_rate": config.learning_rate,
            "max_steps": total_steps(config, len(task.train)),
            "per_device_train_batch_size": config.per_device_train_batch_size,
            "warmup_steps": config.warmup_ratio,
            "weight_decay": config.weight_decay,
            "lr_scheduler_type": config.lr_scheduler_type,
        }
        yield peft_run(task, base, start, arguments)


def peft_run(task: Task, base: FrozenBase, start: dict[str, Any], arguments: dict[str, Any]) -> Row:
    """One PEFT run through the Transformers Trainer. Its prompt is judged by our evaluation, whose logits are PEFT's."""
    import peft
    import transformers

    transformers.set_seed(task.config.seed)
    began = time.perf_counter()
    fresh = FrozenBase.load(base.source, dtype=str(base.dtype).removeprefix("torch."))
    length = task.config.num_virtual_tokens
    model = peft.get_peft_model(
        fresh.model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length, **start)
    )
    examples = task.encode(base, task.train, length, split="training")
    rows = [
        {"input_ids": ids + target, "labels": [-100] * len(ids) + target}
        for ids, target in zip(examples.inputs, examples.targets, strict=True)
    ]
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(HERE / "out" / "peft"),
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            seed=task.config.seed,
            use_cpu=True,
            **arguments,
        ),
        train_dataset=rows,
        data_collator=collate,
    )
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its summary
        trainer.train()
    vectors_PD = model.get_prompt_embedding_to_save("default").detach()
    return _judge(task, base, vectors_PD, time.perf_counter() - began)


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Rows padded on the right, for the Trainer."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, value: int) -> torch.Tensor:
        return torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}


def full(tasks: Sequence[Task], base: FrozenBase) -> Iterator[Row]:
    """Full fine-tuning: every weight of the base, no prompt, one task at a time, the same objectives."""
    for task in tasks:
        yield full_run(task, base)


def full_run(task: Task, base: FrozenBase, rate: float = 5e-4, epochs: int = 3, size: int = 32) -> Row:
    """AdamW over all weights, linear decay, at a usual rate for a model of this size; the rate was not searched for."""
    began = time.perf_counter()
    tuned = FrozenBase.load(base.source, dtype="float32")
    tuned.model.requires_grad_(True)
    examples = task.encode(tuned, task.train, 0, split="training")
    if task.form.labels is None:
        epochs *= 5  # headword has a tenth of the others' rows
    optimiser = torch.optim.AdamW(tuned.model.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * (len(examples) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min((step + 1) / (0.06 * steps), 1 - step / steps))
    order = random.Random(task.config.seed)
    with Bars().stage(f"full {task.name}", steps) as advance:
        for step in range(steps):
            loss = _full_loss(tuned, task, examples, order.sample(range(len(examples)), size))
            torch.nn.utils.clip_grad_norm_(tuned.model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            advance(1, f"loss {loss:.3f}" if step % 10 == 0 else "")
    tuned.model.requires_grad_(False)
    return _judge(task, tuned, torch.zeros(0, base.width), time.perf_counter() - began)


def _full_loss(base: FrozenBase, task: Task, examples: Examples, rows: list[int]) -> float:
    stack = stack_prompts([torch.zeros(0, base.width)])
    objective = OBJECTIVES["label_scoring" if task.form.labels else "language_modelling"]
    targets = objective.targets(examples, task.form.encode_labels(base) if task.form.labels else None)
    total = 0.0
    for chunk in chunk_by_length([len(examples.inputs[row]) for row in rows], 2048):
        some = [rows[index] for index in chunk]
        own, tails = [targets[row] for row in some], [objective.tails(targets[row]) for row in some]
        logits = architecture_of(base).logits_behind(
            stack, None, [0] * len(some), [examples.inputs[row] for row in some], tails
        )
        loss = objective.losses(own, logits).sum() / len(rows)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def _judge(task: Task, base: FrozenBase, vectors_PD: torch.Tensor, seconds: float) -> Row:
    test = task.encode(base, task.test, len(vectors_PD), split="test")
    engine = OfflineEngine(architecture_of(base))
    (report,) = result_of(judge(engine, [Trial(task.form, vectors_PD, test)]))
    scores = {"metric": report.metric, "value": report.value, "stderr": report.stderr, "rows": report.rows}
    return {"task": task.name, **scores, "seconds": round(seconds, 2)}


METHODS: dict[str, Callable[[Sequence[Task], FrozenBase], Iterator[Row]]] = {
    "ours": ours,
    "peft_defaults": peft_defaults,
    "peft_ours": peft_ours,
    "full": full,
}


def main() -> None:
    """Run the methods asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--tasks", nargs="+", choices=[*REAL, "headword"], default=[*REAL, "headword"])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--base", default="builtin/tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change the recipe: learning_rate=0.1 ...")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    overrides = dict(item.split("=", 1) for item in args.set)
    base = FrozenBase.load(args.base, dtype=args.dtype)
    values: dict[tuple[str, str], list[Row]] = {}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for method in args.methods:
            for row in METHODS[method](make_tasks(args.tasks, seed, overrides), base):
                values.setdefault((method, row["task"]), []).append(row)
                _print({"base": args.base, "method": method, "seed": seed, **row}, args.json)
    for (method, task), rows in values.items():
        scores = [row["value"] for row in rows]
        summary = {
            "base": args.base,
            "method": method,
            "task": task,
            "metric": rows[0]["metric"],
            "mean": round(statistics.fmean(scores), 4),
            "spread": round(statistics.stdev(scores), 4) if len(scores) > 1 else 0.0,
            "seeds": len(scores),
            "seconds": round(statistics.fmean(row["seconds"] for row in rows), 1),
        }
        for key in ("majority", "zero_shot", "untrained"):
            if key in rows[0]:
                summary[key] = round(statistics.fmean(row[key] for row in rows), 4)
        _print(summary, args.json)


def _print(row: Row, as_json: bool) -> None:
    for_people = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items() if k not in ("digest", "version")}
    print_row(row if as_json else for_people, as_json)


if __name__ == "__main__":
    main()
