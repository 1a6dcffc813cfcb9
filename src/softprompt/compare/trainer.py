"""PEFT's prompt methods through the Trainer of transformers, as their documentation trains them."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from softprompt.bases.base import FrozenBase
from softprompt.compare.fit import weights_of
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


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows padded on the right, for the Trainer."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, value: int) -> torch.Tensor:
        return torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
    weights = {"weights": torch.tensor([row["weight"] for row in rows])} if "weight" in rows[0] else {}
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask, **weights}


def weighted_loss(logits_BTV: torch.Tensor, labels_BT: torch.Tensor, weights_B: torch.Tensor) -> torch.Tensor:
    """The mean loss of the tokens that are labels, each weighing as its row does; before the logits of the rows' own tokens
    may stand those of a prompt."""
    logits_BTV, labels_BT = logits_BTV[:, -labels_BT.shape[1] :][:, :-1].float(), labels_BT[:, 1:]
    losses_BT = F.cross_entropy(logits_BTV.transpose(1, 2), labels_BT, reduction="none")  # 0 where there is no label
    weights_BT = weights_B[:, None].to(losses_BT) * (labels_BT != -100)
    return (losses_BT * weights_BT).sum() / weights_BT.sum()


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
    rows: list[dict[str, Any]] = [
        {"input_ids": ids + target, "labels": [-100] * len(ids) + target}
        for ids, target in zip(examples.inputs, examples.targets, strict=True)
    ]
    if task.config.class_weights is not None:
        rows = [row | {"weight": weight} for row, weight in zip(rows, weights_of(task, examples), strict=True)]
    steps = total_steps(task.config, len(rows))

    class Weighing(transformers.Trainer):  # type: ignore[misc]
        """Rows without weights go the Trainer's own way."""

        def compute_loss(self, model: Any, inputs: Any, *given: Any, **known: Any) -> Any:
            if "weights" not in inputs:
                return super().compute_loss(model, inputs, *given, **known)
            weights_B = inputs.pop("weights")
            return weighted_loss(model(**inputs).logits, inputs["labels"], weights_B)

    with _reported(progress, steps) as callback, tempfile.TemporaryDirectory() as folder:
        trainer = Weighing(
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
                remove_unused_columns=False,  # weights are none of the model's
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
