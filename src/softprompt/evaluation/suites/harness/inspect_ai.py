"""inspect-ai (https://inspect.aisi.org.uk): what it is called with, and what it leaves. No torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from softprompt.errors import DataError
from softprompt.evaluation.suites.harness.samples import Found, Sample, digest_of
from softprompt.evaluation.suites.harness_task import HarnessConfig

PROGRAM = "inspect"
INSTALL = "pip install inspect-ai"

PROVIDER = "softprompt"
_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Right, in part, wrong, and no answer, as its own means count them."""
_MEANS = ("accuracy", "mean")
"""Its metrics that are means over rows."""


def arguments(config: HarnessConfig, *, model: str, out: Path) -> list[str]:
    """What it is called with, behind its name; the server's address is in its environment."""
    # A file is named from the suite's folder, in which it runs: it takes no absolute one.
    words = ["eval", config.task, "--model", f"openai-api/{PROVIDER}/{model}", "--log-format", "json", "--log-dir", str(out)]
    return [*words, *(["--limit", str(config.limit)] if config.limit is not None else []), "--display", "plain"]


def environment(url: str, key: str) -> dict[str, str]:
    """Where it finds the server."""
    return {f"{PROVIDER.upper()}_BASE_URL": f"{url}/v1", f"{PROVIDER.upper()}_API_KEY": key}


def read(out: Path) -> Found:
    """What it wrote of a task.

    Raises:
        DataError: it wrote nothing, of several tasks, or did not come to its end.
    """
    files = sorted(out.glob("**/*.json"))
    if len(files) != 1:
        raise DataError(f"a suite is of one task, and it wrote logs of {len(files)}; name one (`task: FILE.py@NAME`)")
    log = json.loads(files[0].read_text(encoding="utf-8"))
    if log["status"] != "success":
        why = (log.get("error") or {}).get("message", "it does not say why")
        raise DataError(f"it did not come to its end ({log['status']}): {str(why).strip()[:300]}; mend the task")
    told = log["eval"]
    version = f"inspect-ai {told['packages'].get('inspect_ai')}, {told['task']} {told['task_version']}"
    totals = {
        score["name"]: float(metric["value"])
        for score in log["results"]["scores"]
        for name, metric in score["metrics"].items()
        if name in _MEANS
    }
    return Found(version, [_sample(sample) for sample in log.get("samples") or ()], totals)


def _sample(sample: dict[str, Any]) -> Sample:
    values: dict[str, float] = {}
    for scorer, score in (sample.get("scores") or {}).items():
        value = score["value"]
        several = {f"{scorer}/{key}": one for key, one in value.items()} if isinstance(value, dict) else {scorer: value}
        values |= {name: number for name, one in several.items() if (number := _number(one)) is not None}
    digest = digest_of(*(sample.get(name) for name in ("id", "epoch", "input", "target")))
    return Sample(digest, str((sample.get("output") or {}).get("completion", "")), None, values)


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return _LETTERS.get(value)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
