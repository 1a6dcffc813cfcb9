"""lm-eval (https://github.com/EleutherAI/lm-evaluation-harness): what it is called with, and what it leaves. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from softprompt.errors import DataError
from softprompt.evaluation.suites.harness.samples import Found, Sample, digest_of
from softprompt.evaluation.suites.harness_task import HarnessConfig

PROGRAM = "lm_eval"
INSTALL = "pip install 'lm-eval[api]'"

NO_BOUND = 1 << 30
"""For its `max_length`, beyond which it cuts inputs without a word: the server refuses what does not fit."""
ROWS = 16
"""Texts in one request."""


def arguments(config: HarnessConfig, *, url: str, model: str, tokenizer: Path, beside: Path, out: Path) -> list[str]:
    """What it is called with, behind its name."""
    how = {
        "base_url": f"{url}/v1/completions",
        "model": model,
        "tokenizer": str(tokenizer),
        "tokenizer_backend": "huggingface",
        "num_concurrent": 1,
        "max_length": NO_BOUND,
    }
    words = ["--model", "local-completions", "--model_args", json.dumps(how), "--tasks", config.task]
    words += ["--include_path", str(beside / config.folder)] if config.folder is not None else []
    words += ["--limit", str(config.limit)] if config.limit is not None else []
    return [*words, "--batch_size", str(ROWS), "--output_path", str(out), "--log_samples"]


def read(out: Path) -> Found:
    """What it wrote of a task.

    Raises:
        DataError: it wrote nothing, or of several tasks.
    """
    files, results = sorted(out.glob("**/samples_*.jsonl")), sorted(out.glob("**/results_*.json"))
    if len(results) != 1 or len(files) != 1:
        tasks = ", ".join(file.stem.removeprefix("samples_").rpartition("_")[0] for file in files)
        told = f"that is a group of {len(files)} ({tasks})" if len(files) > 1 else "it wrote no samples of it"
        raise DataError(f"a suite is of one task, and {told}; name one")
    whole = json.loads(results[0].read_text(encoding="utf-8"))
    (task,) = whole["results"]
    samples: dict[Any, list[dict[str, Any]]] = {}
    for line in files[0].read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        samples.setdefault(sample["doc_id"], []).append(sample)  # one for each filter of its answers
    better = whole.get("higher_is_better", {}).get(task, {})
    names = {name for own in samples.values() for sample in own for name in _values(sample)}
    # Its own values are named with the filter behind a comma, as ours are where there is one.
    totals = {
        _named(*name.split(",", 1)): float(value)
        for name, value in whole["results"][task].items()
        if "," in name and "_stderr," not in name and isinstance(value, int | float)
    }
    version = f"lm-eval {whole.get('lm_eval_version')}, {task} {whole.get('versions', {}).get(task)}"
    lower = frozenset(name for name in names if better.get(name.partition(",")[0]) is False)
    return Found(version, [_sample(samples[place]) for place in sorted(samples)], totals, lower)


def _named(metric: str, kind: str) -> str:
    return metric if kind == "none" else f"{metric},{kind}"


def _values(sample: dict[str, Any]) -> dict[str, float]:
    found = {name: sample.get(name) for name in sample["metrics"]}
    kind = sample["filter"]
    return {_named(name, kind): float(one) for name, one in found.items() if isinstance(one, int | float)}


def _sample(own: list[dict[str, Any]]) -> Sample:
    """A row, by what is written of it for each filter."""
    first = own[0]
    answer, choices = _answer(first)
    target = str(first["target"])
    if choices and target not in choices and target.isdigit() and int(target) < len(choices):
        target = choices[int(target)]
    return Sample(
        digest_of(*(first[name] for name in ("doc_hash", "prompt_hash", "target_hash"))),
        answer,
        target if target in choices else None,
        {name: value for sample in own for name, value in _values(sample).items()},
    )


def _answer(sample: dict[str, Any]) -> tuple[str, list[str]]:
    """What was answered, and the choices that there were, if any: of those the likeliest."""
    said = sample["filtered_resps"]
    asked = sample["arguments"]
    choices = [str(asked[f"gen_args_{place}"].get("arg_1", "")).strip() for place in range(len(said))]
    scored = all(isinstance(one, list) and len(one) == 2 for one in said)
    if scored and len(said) > 1 and len(set(choices)) == len(choices):
        sums = [float(one[0]) for one in said]
        return choices[sums.index(max(sums))], choices
    if len(said) == 1 and isinstance(said[0], str):
        return said[0], []
    return json.dumps(said, ensure_ascii=False), []
