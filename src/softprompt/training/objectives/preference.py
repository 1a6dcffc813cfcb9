"""Preference (DPO, Rafailov et al. 2023): the chosen of two answers before the rejected one, more than the base has it so.

Shapes: B rows, N logits of all rows end to end, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from softprompt.engines.offline import OfflineEngine
from softprompt.errors import DataError
from softprompt.evaluation.columns import answers_in
from softprompt.evaluation.trials import Trial, placed_prompts
from softprompt.model.label_scores import Labels, label_contexts, score_labels
from softprompt.model.lines import Tails
from softprompt.model.splice import no_prompt
from softprompt.tasks.task import Examples
from softprompt.training.objectives.objective import Objective, Splits, Surroundings

PREFERRED = ("preferred", "base_preferred")
"""Among the metrics of a card: the share of test pairs whose chosen answer is likelier, behind the prompt and without it."""


@dataclass(frozen=True)
class Pair:
    """A chosen answer and a rejected one."""

    answers: Labels
    """Their tokens, the chosen one's first."""
    margin: float
    """By how much the base without a prompt has the chosen one likelier, in nats."""
    beta: float


class Preference(Objective[Pair]):
    """Minus the log-sigmoid of beta times what the margin of the chosen answer over the rejected one, in summed
    log-probability, is above that of the base without a prompt. Each pair counts alike."""

    def complete(self, splits: Splits, around: Surroundings) -> Generator[tuple[int, int], None, Splits]:
        task, base = around.task, around.architecture.base
        column, pairs = task.config.rejected, list[Labels]()
        for split, rows in task.splits.items():
            for place, said in enumerate(answers_in(base, task, rows, column)):
                ids = said and said.ids
                chosen = splits[split].targets[place]
                if ids is None or ids == chosen:
                    what = "there is nothing" if ids is None else "the answer itself stands"
                    raise DataError(
                        f"task {task.name!r}, {rows.where(place)}: {what} in the column {column!r}, and the objective is "
                        "preference, which needs a rejected answer beside the chosen one; mend the row"
                    )
                pairs.append((tuple(chosen), tuple(ids)))
        inputs = [splits[split].front(row) + ids for split in task.splits for row, ids in enumerate(splits[split].inputs)]
        inputs = inputs[: around.most]
        asking = OfflineEngine(around.architecture, warn=around.warn).score(
            [no_prompt(base)], [0] * len(inputs), inputs, pairs[: around.most]
        )
        done = 0
        while True:
            yield done, len(pairs)
            try:
                done += next(asking)
            except StopIteration as end:
                scores = itertools.islice(itertools.cycle(end.value), len(pairs))
                break
        beta = task.config.preference_beta
        known = iter([Pair(pair, own[0] - own[1], beta) for pair, own in zip(pairs, scores, strict=True)])
        return {split: replace(splits[split], beside=[next(known) for _ in splits[split].inputs]) for split in task.splits}

    def targets(self, examples: Examples, labels: Labels | None) -> list[Pair]:
        return list(examples.beside)

    def tails(self, target: Pair) -> Tails:
        return label_contexts(target.answers)

    def size(self, target: Pair) -> int:
        return 1

    def losses(self, targets: Sequence[Pair], logits_NV: Tensor) -> Tensor:
        scores_B2 = torch.stack(score_labels(logits_NV, [target.answers for target in targets]))
        margin_B = scores_B2.new_tensor([target.margin for target in targets])
        beta_B = scores_B2.new_tensor([target.beta for target in targets])
        return -F.logsigmoid(beta_B * (scores_B2[:, 0] - scores_B2[:, 1] - margin_B))

    def ask(self, engine: OfflineEngine, trial: Trial) -> Generator[int, None, dict[str, float]]:
        members, (which,) = placed_prompts(engine.architecture.base, [trial])
        pairs: list[Pair] = trial.examples.beside
        prompts = [own[0] for own in members]
        scores = yield from engine.score(prompts, which, trial.examples.inputs, [pair.answers for pair in pairs])
        shares = (sum(own[0] > own[1] for own in scores), sum(pair.margin > 0 for pair in pairs))
        return dict(zip(PREFERRED, (share / len(pairs) for share in shares), strict=True))
