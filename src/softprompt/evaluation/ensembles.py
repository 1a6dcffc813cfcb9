"""Labels scored by ensembles: each member alone before the input, and the mean of what they say.

The mean is that of the members' distributions over the labels, as of deep ensembles (Lakshminarayanan et al. 2017): a
member that is unsure has little to say, where a mean of log-probabilities lets one member rule out a label alone.

Shapes: P virtual tokens, D width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence

from torch import Tensor

from softprompt.engines.offline import OfflineEngine
from softprompt.model.label_scores import Labels
from softprompt.model.lines import Ids


def log_softmax(scores: Sequence[float]) -> list[float]:
    """Log-softmax over a few scores, in double precision."""
    top = max(scores)
    total = top + math.log(sum(math.exp(score - top) for score in scores))
    return [score - total for score in scores]


def mean_scores(scores: Sequence[Sequence[float]]) -> Sequence[float]:
    """Scores of labels by each member as those of the ensemble: the logarithm of the mean of their distributions. Those of
    a prompt that is no ensemble come as they are; where a member has no numbers, neither has the mean."""
    if len(scores) == 1:
        return scores[0]
    if any(math.isnan(score) for own in scores for score in own) or any(max(own) == -math.inf for own in scores):
        return [math.nan] * len(scores[0])
    each = [log_softmax(own) for own in scores]
    return [_log_mean(column) for column in zip(*each, strict=True)]


def score_members(
    engine: OfflineEngine,
    prompts: Sequence[Sequence[Tensor]],
    which: Sequence[int],
    inputs: Sequence[Ids],
    labels: Sequence[Labels],
) -> Generator[int, None, list[Sequence[float]]]:
    """Scores of each row's labels, as :meth:`OfflineEngine.score` gives them, where prompts may be ensembles: P x D matrices
    of the members, one for a prompt that is none. Yields numbers of rows of which all is done."""
    firsts = [0, *itertools.accumulate(len(members) for members in prompts)]
    counts = [len(prompts[prompt]) for prompt in which]
    places = [firsts[prompt] + member for prompt, count in zip(which, counts, strict=True) for member in range(count)]
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    scoring = engine.score(
        [matrix for members in prompts for matrix in members],
        places,
        [inputs[row] for row in rows],
        [labels[row] for row in rows],
    )
    done = told = 0
    while True:
        try:
            done += next(scoring)
        except StopIteration as end:
            found = iter(end.value)
            return [mean_scores(list(itertools.islice(found, count))) for count in counts]
        now = len(which) * done // len(rows)  # which rows they were of is not told
        yield now - told
        told = now


def _log_mean(logs: Sequence[float]) -> float:
    top = max(logs)
    if top == -math.inf:
        return top
    return top + math.log(sum(math.exp(log - top) for log in logs) / len(logs))
