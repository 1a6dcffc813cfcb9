"""PEFT's prompt methods through the Trainer of transformers, as their documentation trains them."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.progress import Progress
from softprompt.tasks.config.schedule import total_steps
from softprompt.tasks.task import Task

DEFAULTS = {"learning_rate": 5e-5, "per_device_train_batch_size": 8, "lr_scheduler_type": "linear", "warmup_steps": 0}
"""Of the Trainer, so that a row can say them."""


@contextlib.contextmanager
def without_future_warnings() -> Iterator[None]:
    """PEFT calls names of transformers that will go; nothing that whoever compares could do about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Rows padded on the right, for the Trainer."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, value: int) -> torch.Tensor:
        return torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}


def fit_peft(
    model: Any,
    task: Task,
    base: FrozenBase,
    arguments: dict[str, Any],
    progress: Progress,
    callbacks: Sequence[Any] = (),
) -> int:
    """Train a PEFT model on a task's training rows, by language modelling of the answer; how many steps it took. More of the
    Trainer's callbacks may listen."""
    import transformers
    from transformers.trainer_callback import PrinterCallback

    examples = task.encode(base, task.train, model.active_peft_config.num_virtual_tokens, split="training")
    rows = [
        {"input_ids": ids + target, "labels": [-100] * len(ids) + target}
        for ids, target in zip(examples.inputs, examples.targets, strict=True)
    ]
    steps = total_steps(task.config, len(rows))
    with _reported(progress, steps) as callback, tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=folder,
                disable_tqdm=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                seed=task.config.seed,
                use_cpu=base.device.type == "cpu",
                max_steps=steps,
                **arguments,
            ),
            train_dataset=rows,
            data_collator=collate,
            callbacks=[callback, *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        with without_future_warnings():
            trainer.train()
    model.eval()
    return int(trainer.state.global_step)


@contextlib.contextmanager
def _reported(progress: Progress, steps: int) -> Iterator[Any]:
    import transformers

    with progress.stage("train", steps) as advance:

        class Step(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                advance(1, "")

        yield Step()
