"""What shows with the base at hand: rows as tokens, and answers in a batch beside answers alone.

Shapes: P virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from softprompt.bases.base import FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.batch import score_rows
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.findings import Finding
from softprompt.evaluation.trials import result_of
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.label_scores import Labels
from softprompt.model.splice import no_prompt, stack_prompts
from softprompt.progress import Progress
from softprompt.prompts.initialize import sample_vocabulary
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.task import Examples, Task
from softprompt.text import plural

if TYPE_CHECKING:
    from torch import Tensor

    from softprompt.library.library import Library
    from softprompt.registry.records import Version

ROWS = 8
"""That are answered beside each other: the shortest inputs and the longest."""
TOLERANCE = {torch.float32: 1e-3}
"""Of a log-probability, by which answers in a batch may differ from answers alone."""
_ROUGH = 6e-2
"""The same in narrower dtypes."""


def probe(
    task: Task | None, options: BaseOptions, library: Library | None, version: Version | None, progress: Progress
) -> Iterator[Finding]:
    """What shows of a task's rows as tokens, and of answers behind a version's prompt, or behind one of random tokens.

    Raises:
        BaseModelError: the base cannot be loaded.
        DataError: a row is wrong, or labels are the same tokens.
    """
    base = base_of(None, options, progress)
    prompt = None
    if library is not None and version is not None:
        if version.fingerprint not in base.fingerprints:
            return  # told already
        prompt = SoftPrompt.from_bytes(library.read(version), digest=version.digest)
    splits = _encode(task, base, prompt) if task is not None else []
    yield from _of_tokens(task, base, splits)
    if prompt is not None and (prompt.card.prompt_type == "prefix" or prompt.classifier is not None):
        return  # keys and values stand before no padding, and a head has no tokens of labels
    vectors_PD = _vectors(task, base, prompt)
    yield from _of_masks(architecture_of(base), vectors_PD, *_some_rows(task, base, splits))


def _encode(task: Task, base: FrozenBase, prompt: SoftPrompt | None) -> list[Examples]:
    length = prompt.columns if prompt is not None else task.config.num_virtual_tokens
    splits = {name: rows for name, rows in task.splits.items() if not (task.folds and name == "validation")}
    return [task.encode(base, rows, length, split=name, unanswered=True) for name, rows in splits.items()]


def _vectors(task: Task | None, base: FrozenBase, prompt: SoftPrompt | None) -> Tensor:
    if prompt is not None:
        return prompt.members[0]
    return sample_vocabulary(base, task.config.num_virtual_tokens if task is not None else 20, 0)


def _of_tokens(task: Task | None, base: FrozenBase, splits: Sequence[Examples]) -> Iterator[Finding]:
    if task is None:
        return
    if cut := sum(split.truncated for split in splits):
        first = next(split.first_cut for split in splits if split.first_cut)
        yield Finding(
            "context_exhausted",
            f"{cut} of {plural(sum(map(len, splits)), 'input')} are cut to fit the {base.context} tokens of {base.shown} "
            f"beside the prompt and the answer, the first of them {first}",
            "shorten the inputs or the template, use fewer virtual tokens, or take a base with a longer context",
        )
    if (end := task.form.rules(base).get("label_end")) is not None:
        yield Finding(
            "labels_begin_each_other",
            f"the tokens of a label begin another's, so that every label ends with {end}, which the model must say too",
            "rename one of them, so that none begins another",
        )


def _some_rows(task: Task | None, base: FrozenBase, splits: Sequence[Examples]) -> tuple[list[list[int]], Labels]:
    """Inputs of very unequal lengths, and labels behind them."""
    usable = [token for token in range(len(base.embedding.weight)) if token not in base.spelling.unusable]
    labels: Labels = ((usable[len(usable) // 2],), (usable[len(usable) // 3],))
    if task is not None and task.form.labels is not None and base.task_type != "SEQ_CLS":
        labels = task.form.encode_labels(base)
    inputs = sorted((ids for split in splits for ids in split.inputs), key=len)
    if not inputs:
        inputs = [usable[at : at + 3 * at + 1] for at in range(1, 1 + ROWS)]
    return [*inputs[: ROWS // 2], *inputs[-ROWS // 2 :]], labels


@torch.no_grad()
def _of_masks(
    architecture: Architecture, vectors_PD: Tensor, inputs: Sequence[list[int]], labels: Labels
) -> Iterator[Finding]:
    """Whether a row is answered alike in one batch with others, of other lengths and behind no prompt, and alone, without
    padding."""
    base = architecture.base
    if architecture.head is not None:
        return
    prompts = [vectors_PD.to(base.device, base.dtype), no_prompt(base)]
    which = [place % 2 for place in range(len(inputs))]
    together = result_of(OfflineEngine(architecture).score(prompts, which, inputs, [labels] * len(inputs)))
    worst = 0.0
    for place, ids, scores in zip(which, inputs, together, strict=True):
        (alone,) = score_rows(architecture, stack_prompts([prompts[place]]), None, [0], [ids], [labels])
        worst = max(worst, *(abs(one - other) for one, other in zip(scores, alone, strict=True)))
    if not worst <= TOLERANCE.get(base.dtype, _ROUGH):
        yield Finding(
            "mask_mismatch",
            f"{plural(len(inputs), 'row')} in one batch, and each alone without padding, differ by up to {worst:.3g} in the "
            "log-probability of an answer: padding or another row's prompt is attended to",
            "take the model's code that comes with transformers (no trust_remote_code), or another base; every score of "
            "this one is in doubt",
        )
