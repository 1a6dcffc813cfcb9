"""How often `auto` finds the task that an input belongs to, and what it makes of inputs of no task.

    python benchmarks/router.py --json              # on the test inputs
    python benchmarks/router.py --json --variants   # the choice of embedding and score, on the validation inputs

Centroids come from 200 training rows of trec6, subjectivity, sentence_polarity and rte3, as training leaves them in a prompt
file; no prompt is trained. Inputs are raw texts without a template, so that nothing but their content tells tasks apart.
Sentences of books, speeches, product reviews and whole film reviews belong to no task, though the latter are much like two.
Data from SOFTPROMPT_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.setdefault("SOFTPROMPT_DATA", str(HERE.parent.parent / "shared" / "data")))
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.row import Row, print_row
from softprompt.bases.base import FrozenBase
from softprompt.model.architecture import architecture_of
from softprompt.model.centroid import centroid_of, raw_text
from softprompt.model.embedding import shorten, single_tokens
from softprompt.model.splice import chunk_by_length, pad_rows
from softprompt.serving.routing.router import THRESHOLD, Router, direction_of
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.task import Task
from softprompt.training.publish import CENTROID_ROWS

COLUMNS = {
    "trec6": ("text",),
    "subjectivity": ("text",),
    "sentence_polarity": ("text",),
    "rte3": ("premise", "hypothesis"),
}
OUTSIDE = {
    "genesis": ("genesis.zip", r"english-web"),
    "inaugural": ("inaugural.zip", r"\.txt$"),
    "state_union": ("state_union.zip", r"\.txt$"),
    "product_reviews": ("product_reviews_1.zip", r"\.txt$"),
    "movie_reviews": ("movie_reviews.zip", r"\.txt$"),
}


def load_task(name: str) -> Task:
    """A task as it would be trained, of which only the rows are used."""
    return Task(
        parse_config(
            {
                "task": name,
                "data": {"train": f"{name}/train.jsonl", "test": f"{name}/test.jsonl"},
                "input": "\n".join(f"{{{column}}}" for column in COLUMNS[name]),
                "labels": ["entailed", "not entailed"],  # of no account here
            }
        )
    )


def sentences(archive: str, pattern: str, count: int) -> list[str]:
    """A sample of sentences from the text files of an archive."""
    found: list[str] = []
    with zipfile.ZipFile(DATA / "corpus" / archive) as files:
        for name in files.namelist():
            if re.search(pattern, name) and "README" not in name:
                text = files.read(name).decode("utf-8", "replace")
                text = re.sub(r"^.*?##", "", text, flags=re.MULTILINE)  # the marks of product reviews
                split = re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", text))
                found += [sentence for sentence in split if 40 < len(sentence) < 400]
    random.Random(0).shuffle(found)
    return found[:count]


def texts_of(task: Task, split: str, limit: int) -> list[str]:
    """Raw texts of a split, at most `limit`, spread over all of it."""
    rows = {"train": task.train, "validation": task.validation, "test": task.test}[split]
    return [raw_text(COLUMNS[task.name], row) for row in rows[:: -(-len(rows) // limit)]]


def measure(base: FrozenBase, limit: int) -> Iterator[Row]:
    """What the router does, as it is served, with test inputs and with inputs of no task."""
    tasks = {name: load_task(name) for name in COLUMNS}
    architecture = architecture_of(base)
    centroids = {}
    for name, task in tasks.items():
        centroid_D = centroid_of(architecture, texts_of(task, "train", CENTROID_ROWS))
        assert centroid_D is not None
        centroids[name] = centroid_D.numpy()
    router = Router(centroids)
    origin_D = architecture.origin_D.numpy()

    def routes(texts: Sequence[str]) -> list[tuple[str, float]]:
        inputs = [shorten(base, ids) for ids in base.encode(texts)]
        found = [router.nearest([direction_of(row, origin_D)]) for row in architecture.embed(inputs).tolist()]
        return [(route.task, route.score) for route in found]

    shares: list[list[float]] = []
    for name, task in tasks.items():
        found = routes(texts_of(task, "test", limit))
        kept = [chosen for chosen, score in found if score >= THRESHOLD]
        right = [chosen == name for chosen, _ in found]
        figures = [
            float(np.mean(right)),
            len(kept) / len(found),
            kept.count(name) / max(1, len(kept)),
        ]
        shares.append(figures)
        chosen = {other: round(sum(c == other for c, _ in found) / len(found), 3) for other in tasks}
        yield row_of(base, "task", name, len(found), figures, {"chosen": chosen})
    means = np.mean(np.asarray(shares), axis=0).tolist()
    yield row_of(base, "tasks", "mean", sum(len(texts_of(task, "test", limit)) for task in tasks.values()), means, {})
    for name, (archive, pattern) in OUTSIDE.items():
        found = routes(sentences(archive, pattern, limit))
        abstained = sum(score < THRESHOLD for _, score in found) / len(found)
        yield {
            "model": base.name, "case": "outside", "name": name, "inputs": len(found), "abstained": round(abstained, 3),
            "threshold": THRESHOLD,
        }  # fmt: skip


def row_of(base: FrozenBase, case: str, name: str, inputs: int, figures: Sequence[float], more: Row) -> Row:
    """Accuracy over all inputs; the share that is not abstained from; accuracy among these."""
    accuracy, coverage, covered = (round(figure, 3) for figure in figures)
    return {
        "model": base.name, "case": case, "name": name, "inputs": inputs, "accuracy": accuracy, "coverage": coverage,
        "accuracy_covered": covered, "threshold": THRESHOLD, **more,
    }  # fmt: skip


@torch.no_grad()
def layer_means(base: FrozenBase, inputs: Sequence[Sequence[int]]) -> Tensor:
    """Mean over tokens of the states behind every layer, N x layers x D."""
    means: list[Tensor] = [torch.empty(0)] * len(inputs)
    for group in chunk_by_length([len(ids) for ids in inputs], 4096):
        tokens = pad_rows([inputs[i] for i in group], base.device)
        output = base.model(input_ids=tokens.ids_BT, attention_mask=tokens.mask_BT, output_hidden_states=True)
        mask_BT1 = tokens.mask_BT[..., None].float()
        for layer in [torch.stack([(s.float() * mask_BT1).sum(1) / mask_BT1.sum(1) for s in output.hidden_states], 1)]:
            for place, row in zip(group, layer, strict=True):
                means[place] = row.cpu()
    return torch.stack(means)


def variants(base: FrozenBase, limit: int) -> Iterator[Row]:
    """Layer, origin, number of centroids and score, judged on validation inputs and inputs of no task."""

    def states(texts: Sequence[str]) -> Tensor:
        return layer_means(base, [shorten(base, ids) for ids in base.encode(texts)])

    tasks = [load_task(name) for name in COLUMNS]
    known = [states(texts_of(task, "train", CENTROID_ROWS)) for task in tasks]
    inside = [states(texts_of(task, "validation", limit)) for task in tasks]
    outside = torch.cat([states(sentences(*where, limit)) for where in OUTSIDE.values()])
    nothing = layer_means(base, single_tokens(base)).mean(0)
    layers = nothing.shape[0]
    for layer in (0, layers // 2, layers - 2, layers - 1):
        for origin in ("zero", "single tokens"):
            for count in (1, 4, 8):
                for score in ("cosine", "cosine less spread"):
                    offset_D = nothing[layer] if origin != "zero" else torch.zeros_like(nothing[layer])

                    def directions(found: Tensor, offset_D: Tensor = offset_D, layer: int = layer) -> Tensor:
                        return torch.nn.functional.normalize(found[:, layer] - offset_D, dim=1)

                    judge = scorer([directions(rows) for rows in known], count, spread=score != "cosine")
                    yield {
                        "model": base.name, "case": "variant", "layer": layer, "origin": origin, "centroids": count,
                        "score": score, **judged(judge, [directions(r) for r in inside], directions(outside)),
                    }  # fmt: skip


def scorer(known: Sequence[Tensor], count: int, *, spread: bool) -> Callable[[Tensor], Tensor]:
    """Scores (N x K) of directions for K tasks with so many centroids each."""
    means = [centres(rows, count) for rows in known]

    def score(found_ND: Tensor) -> Tensor:
        scores = []
        for mean_CD in means:
            lengths_C = mean_CD.norm(dim=1)
            cosines_NC = found_ND @ (mean_CD / lengths_C[:, None]).T
            scores.append((cosines_NC - lengths_C if spread else cosines_NC).amax(1))
        return torch.stack(scores, 1)

    return score


def centres(rows_ND: Tensor, count: int) -> Tensor:
    """The mean of rows, or the means of their clusters."""
    if count == 1:
        return rows_ND.mean(0, keepdim=True)
    return torch.tensor(KMeans(count, n_init=3, random_state=0).fit(rows_ND.numpy()).cluster_centers_)


def judged(judge: Callable[[Tensor], Tensor], inside: Sequence[Tensor], outside: Tensor) -> Row:
    """Mean accuracy; how well the score parts inputs of tasks from others; how many others fall below 95% of the former."""
    scores = [judge(rows) for rows in inside]
    accuracy = np.mean([float((s.argmax(1) == place).float().mean()) for place, s in enumerate(scores)])
    mine, others = torch.cat(scores).amax(1), judge(outside).amax(1)
    least = float(mine.quantile(0.05))
    truth = [1] * len(mine) + [0] * len(others)
    return {
        "accuracy": round(float(accuracy), 3),
        "auroc_outside": round(float(roc_auc_score(truth, torch.cat([mine, others]).numpy())), 3),
        "threshold_95": round(least, 3),
        "outside_below": round(float((others < least).float().mean()), 3),
    }


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin/tiny")
    parser.add_argument("--limit", type=int, default=1000, help="inputs of each task and source")
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    base = FrozenBase.load(options.model)
    for row in (variants if options.variants else measure)(base, options.limit):
        print_row(row, options.json)


if __name__ == "__main__":
    main()
