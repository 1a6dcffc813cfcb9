"""The decision rule: prompt tuning, then prefix tuning, then LoRA; the first of them that is good enough, unless a text
prompt, which needs no training, is the best of all. No torch.

Good enough is what on the same test rows is no worse than the best of all methods that were compared, as far as these rows
tell: one-sided, at 95 %, by the differences row by row.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softprompt.compare.names import RULE
from softprompt.prompts.card import goodness
from softprompt.text import plural

Z = statistics.NormalDist().inv_cdf(0.95)
_ERRORS = ("mae", "spearmanr")
"""Metrics whose rows count their error."""
_WORDS = {"ours": "prompt tuning", "prefix": "prefix tuning", "lora": "LoRA", "full": "full fine-tuning"}
_UNTRAINED = ("zero_shot", "few_shot")


@dataclass(frozen=True)
class Decision:
    """What the rule comes to."""

    method: str | None
    """The method to take; None where no method is better than the most frequent answer."""
    words: str
    """Why, in sentences."""


@dataclass(frozen=True)
class Gap:
    """By how much a method is worse than another one, on the same rows."""

    value: float
    """Mean of the rows' differences."""
    stderr: float
    """Its standard error."""

    @property
    def within_chance(self) -> bool:
        """Whether chance alone makes as much of a difference."""
        return self.value <= Z * self.stderr

    @classmethod
    def between(cls, metric: str, one: Sequence[float], better: Sequence[float]) -> Gap:
        """By what each row counts, as :func:`~softprompt.evaluation.metrics.row_values` has it."""
        sign = -1 if metric in _ERRORS else 1
        differences = [sign * (b - a) for a, b in zip(one, better, strict=True)]
        mean = math.fsum(differences) / len(differences)
        spread = math.fsum((one - mean) ** 2 for one in differences)
        return cls(mean, math.sqrt(spread) / len(differences))


def decide(rows: Sequence[Mapping[str, Any]], values: Mapping[str, Sequence[float]], majority: float) -> Decision:
    """Apply the rule to the rows of a comparison.

    Args:
        values: of each method, what each test row counts.
        majority: the value of the most frequent answer.
    """
    metric, count = rows[0]["metric"], plural(rows[0]["rows"], "test row")
    best = max(rows, key=lambda row: goodness(metric, row["value"]))  # the first, which trains least, of equal ones
    said = f"The best is {_named(best['method'])}, {metric} {best['value']:.3f} on {count}."
    if goodness(metric, best["value"]) <= goodness(metric, majority):
        return Decision(
            None, f"{said} The most frequent answer alone has {majority:.3f}: no method has learnt the task here."
        )
    gaps = {row["method"]: Gap.between(metric, values[row["method"]], values[best["method"]]) for row in rows}
    by_name = {row["method"]: row for row in rows}
    asked = [name for name in RULE if name in by_name]
    told, taken = [said], None
    if best["method"] in _UNTRAINED:
        told.append("Take that text prompt: nothing need be tuned.")
        return Decision(best["method"], " ".join([*told, *_limits(by_name, gaps, best["method"])]))
    for name in asked:
        if name == best["method"]:
            told.append(f"Take {_named(name)}: none of the others is better.")
        elif gaps[name].within_chance:
            told.append(
                f"Take {_named(name)}: its {by_name[name]['value']:.3f} is no worse, as far as these rows tell "
                f"(by {_shown(gaps[name])}, row by row)."
            )
        else:
            told.append(f"{_upper(_named(name))} falls short: {by_name[name]['value']:.3f}, by {_shown(gaps[name])}.")
            continue
        taken = name
        break
    if taken is None:
        taken = best["method"]
        told.append(f"{'So take' if asked else 'Take'} {_named(taken)}.")
    told += _cost(by_name[taken], best)
    cheap = [name for name in _UNTRAINED if name in by_name and name != taken and gaps[name].within_chance]
    if cheap:
        text = by_name[cheap[0]]
        told.append(f"A text prompt ({cheap[0]}, {text['value']:.3f}) is no worse either: nothing need be tuned.")
    return Decision(taken, " ".join([*told, *_limits(by_name, gaps, best["method"])]))


def _limits(compared: Iterable[str], gaps: Mapping[str, Gap], best: str) -> list[str]:
    """What the comparison cannot tell: methods that were left out, and differences too small for its rows."""
    told = []
    if missing := [name for name in RULE if name not in compared]:
        told.append(f"Not compared: {', '.join(map(_named, missing))}.")
    if finest := max((gap.stderr for name, gap in gaps.items() if name != best), default=0.0):
        told.append(f"These rows tell differences from about {Z * finest:.3f} on.")
    return told


def _cost(row: Mapping[str, Any], best: Mapping[str, Any]) -> list[str]:
    """What a method costs, beside the best one."""
    if row["method"] == best["method"]:
        return []
    figures = (("bytes", "{:,.0f} bytes"), ("seconds", "{:,.1f} s"), ("peak_mb", "{:,.0f} MB"))
    parts = [f"{form.format(row[key])} against {form.format(best[key])}" for key, form in figures]
    return [f"It keeps {parts[0]}, and took {parts[1]} and {parts[2]} to train."]


def _named(method: str) -> str:
    return f"{_WORDS[method]} ({method})" if _WORDS.get(method, method) != method else method


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _shown(gap: Gap) -> str:
    return f"{gap.value:.3f} ±{gap.stderr:.3f}"
