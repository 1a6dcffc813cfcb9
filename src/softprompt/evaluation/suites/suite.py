"""A suite: a YAML file that says on which rows a task's versions are tried, and what is looked at. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from softprompt.errors import NameRefused
from softprompt.evaluation.suites.harness_task import HarnessConfig
from softprompt.evaluation.suites.measures import SUITE_METRICS
from softprompt.evaluation.suites.perturb import Kind
from softprompt.names import check_suite
from softprompt.rows.sources import find_file
from softprompt.tasks.answers.patterns import Patterns
from softprompt.tasks.config.blocks import Strict
from softprompt.tasks.config.foreign import refusal
from softprompt.tasks.config.task_file import read_task_file

Metric = Literal[
    "accuracy", "f1", "exact_match", "token_f1", "micro_f1", "macro_f1", "subset_accuracy", "mae", "spearmanr",
    "span_f1", "json_f1", "rouge1", "rouge2", "rougeL", "bleu", "perplexity", "preference",
]  # fmt: skip
assert set(get_args(Metric)) == set(SUITE_METRICS)

MOST_WORDS = 20
"""Of a group that is swapped: each is tried in the place of each other."""


class SliceConfig(Strict):
    """Some of the rows, looked at apart."""

    column: str | None = None
    """One slice for each value of this column."""
    value: str | int | float | None = None
    """Of `column`: this value alone."""
    length: tuple[int | None, int | None] | None = None
    """Inputs of so many characters: from, and up to and without; null for no bound."""
    pattern: str | None = None
    """Inputs that have this: words, or `/a regular expression/`."""

    @field_validator("length", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(one, bool) for one in value):
            raise ValueError(f"a length is a number of characters, and this is {value}; write such as [0, 200]")
        return value

    @model_validator(mode="after")
    def _one(self) -> SliceConfig:
        given = [name for name in ("column", "length", "pattern") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a slice has {' and '.join(given) or 'neither column, length nor pattern'}; give one of them")
        if self.value is not None and self.column is None:
            raise ValueError("value: it is the value of a `column`; name that")
        if self.length is not None:
            low, high = self.length[0] or 0, self.length[1]
            if low < 0 or (high is not None and high <= low):
                raise ValueError(f"length: nothing is as long as {low} and shorter than {high}; write such as [0, 200]")
        _check_patterns("pattern", [] if self.pattern is None else [self.pattern])
        return self


OF_HARNESS = frozenset({"name", "harness", "tolerance", "confidence", "keep_answers"})
"""Keys that a suite of a harness may have."""


class SuiteConfig(Strict):
    """Everything that a suite says."""

    name: str
    """By default the name of the file."""
    data: str | None = None
    """A file of rows with the task's columns, beside the suite; by default the test rows of each version's task file."""
    harness: HarnessConfig | None = None
    """A task of a harness, which judges in the place of all below but `tolerance`, `confidence` and `keep_answers`."""
    metrics: tuple[Metric, ...] = ()
    """By default the task's. The first one is what slices and changed inputs are judged by."""
    rejected: str = "rejected"
    """For `preference`: the column of the answers that the right ones must be likelier than."""
    must: tuple[str, ...] = ()
    """What every answer must have: words, or `/regular expressions/`."""
    must_not: tuple[str, ...] = ()
    """What no answer may have."""
    perturb: tuple[Kind, ...] = ()
    """Ways to change inputs, after which answers should stay."""
    swap: tuple[tuple[str, ...], ...] = ()
    """Groups of words, such as names or pronouns, that should make no difference to the answer."""
    slices: tuple[SliceConfig, ...] = ()
    """Parts of the rows that are looked at apart."""
    calibration: int | None = Field(default=None, ge=2, le=100)
    """Bins of confidence to find the calibration error with."""
    tolerance: float = Field(default=0.0, ge=0)
    """By how much a version may be worse in each check than the one whose place it takes; of `mae` and `perplexity` it is a
    share."""
    confidence: float = Field(default=0.95, gt=0, le=1)
    """In which share of resamples it must be worse by more than that to be refused."""
    keep_answers: bool = True
    """Keep what versions say; without it only digests of that."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the changes to inputs."""

    @field_validator("metrics", "must", "must_not", "perturb", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("slices", mode="before")
    @classmethod
    def _columns(cls, value: Any) -> Any:
        several = [value] if isinstance(value, str) else value
        return (
            [{"column": one} if isinstance(one, str) else one for one in several] if isinstance(several, list) else several
        )

    @field_validator("metrics", "must", "must_not", "perturb", "swap", "slices")
    @classmethod
    def _once(cls, value: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        if twice := [one for place, one in enumerate(value) if one in value[:place]]:
            raise ValueError(f"{twice[0]!r} is given twice; leave one out")
        return value

    @field_validator("swap")
    @classmethod
    def _groups(cls, value: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        for group in value:
            if not 2 <= len(group) <= MOST_WORDS:
                raise ValueError(f"a group has 2 to {MOST_WORDS} words, and {list(group)} has {len(group)}; mend it")
            folded = [word.casefold() for word in group]
            if len(set(folded)) < len(folded) or not all(word.strip() == word and word for word in group):
                raise ValueError(f"the group {list(group)} has a word twice, a blank one or blanks around one; mend it")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> SuiteConfig:
        try:
            check_suite(self.name)
        except NameRefused as error:
            raise ValueError(f"name: {error}") from None
        given = [
            name
            for name in self.model_fields_set - OF_HARNESS
            if getattr(self, name) != SuiteConfig.model_fields[name].default
        ]
        if self.harness is not None and given:
            raise ValueError(f"{min(given)}: the harness has its own rows and metrics; leave it out, or `harness`")
        _check_patterns("must", self.must)
        _check_patterns("must_not", self.must_not)
        _check_patterns("must", self.must, self.must_not)
        if "rejected" in self.model_fields_set and "preference" not in self.metrics:
            raise ValueError("rejected: only the metric `preference` reads it; add that to `metrics`, or leave it out")
        return self


def _check_patterns(key: str, *patterns: Sequence[str]) -> None:
    try:
        Patterns(*patterns)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


_KEYS: dict[str | None, Sequence[str]] = {
    None: [*SuiteConfig.model_fields],
    "harness": [*HarnessConfig.model_fields],
    "slices": [*SliceConfig.model_fields],
}


@dataclass(frozen=True)
class Suite:
    """A suite, and where it lies."""

    config: SuiteConfig
    file: str | None
    """Its absolute path, for commands that run it again."""
    address: str | None
    """The absolute path of its rows; None for the test rows of each version's task file."""

    @classmethod
    def load(cls, path: str | Path) -> Suite:
        """Read a suite, and find its rows.

        Raises:
            ConfigError: it is not there, not YAML, or a key is unknown or of the wrong type.
            DataError: its rows are not there.
        """
        file = Path(path)
        config = parse_suite({"name": file.stem, **read_task_file(file, "suite")}, where=str(path))
        if config.harness is not None:
            config.harness.check(file.resolve().parent)
        address = None if config.data is None else str(find_file(config.data, file.resolve().parent).resolve())
        return cls(config, str(file.resolve()), address)

    @classmethod
    def of_definition(cls, kept: dict[str, Any]) -> Suite:
        """One that an outcome keeps."""
        given = dict(kept)
        file = given.pop("file", None)
        config = parse_suite(given, where=f"suite {given.get('name')!r}")
        return cls(config, file, config.data)

    @property
    def name(self) -> str:
        """Its name."""
        return self.config.name

    def definition(self) -> dict[str, Any]:
        """What an outcome keeps of it."""
        said = self.config.model_dump(mode="json", exclude_defaults=True)
        known = {"name": self.name, "tolerance": self.config.tolerance, "confidence": self.config.confidence}
        return said | known | {"file": self.file, "data": self.address}

    def digest(self, metrics: Sequence[str], rows: Sequence[str]) -> str:
        """Of what it looks at and of its rows: not of its name, nor of what is made of that."""
        # A suite without a harness has the digest that it had before there were any.
        left = {
            "name",
            *(["harness"] if self.config.harness is None else []),
            "data",
            "tolerance",
            "confidence",
            "keep_answers",
            "metrics",
        }
        said = self.config.model_dump(mode="json", exclude=left) | {"metrics": list(metrics), "rows": list(rows)}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def parse_suite(raw: dict[str, Any], *, where: str) -> SuiteConfig:
    """Check a suite that is a dictionary already.

    Raises:
        ConfigError: every fault of it.
    """
    try:
        return SuiteConfig.model_validate(raw)
    except ValidationError as error:
        raise refusal(error, _KEYS, where) from None
