"""Labels scored by ensembles: each member alone before the input, and the mean of what they say.

The mean is that of the members' distributions over the labels, as of deep ensembles (Lakshminarayanan et al. 2017): a
member that is unsure has little to say, where a mean of log-probabilities lets one member rule out a label alone.

Shapes: P virtual tokens, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence

from torch import Tensor

from softprompt.engines.offline import OfflineEngine
from softprompt.model.label_scores import Labels
from softprompt.model.lines import Ids
from softprompt.tasks.answers.answering import Answering


def score_members(
    engine: OfflineEngine,
    prompts: Sequence[Sequence[Tensor]],
    which: Sequence[int],
    inputs: Sequence[Ids],
    labels: Sequence[Labels],
    forms: Sequence[Answering],
) -> Generator[int, None, list[Sequence[float]]]:
    """Scores of each row's labels, as :meth:`OfflineEngine.score` gives them, where prompts may be ensembles: P x D matrices
    of the members, one for a prompt that is none. `forms` are of each row, as `labels` are. Yields numbers of rows of which
    all is done."""
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
            return [form.mean(list(itertools.islice(found, count))) for form, count in zip(forms, counts, strict=True)]
        now = len(which) * done // len(rows)  # which rows they were of is not told
        yield now - told
        told = now
