"""The card: what is known of a prompt. Plain data, no torch.

A card holds nothing that differs between two equal training runs: no times, hosts or paths. Those live in the registry.
So equal runs give equal files and equal digests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from softprompt.bases.architectures import ENCODERS
from softprompt.errors import ConfigError, PromptFileError

FORMAT = 2
"""The newest format that is read. A card says the oldest that knows all it says: 1, and 2 for a prefix, an ensemble or
a prompt with a head."""

SCORED = ("input", "target", "labels", "metric")
"""Fields that scores depend on: with another value, the scores are those of another task."""

BASELINES = {
    "majority": "the most frequent answer",
    "zero_shot": "the zero-shot text",
    "untrained": "the prompt before training",
}
"""What a tuned prompt must beat on its test rows: by their names among a card's metrics, what they are in words."""

BASELINE_ROWS, VALUE_THERE = "baseline_rows", "value_on_baseline_rows"
"""Where baselines are of some of the test rows: how many those are, and what the tuned prompt scores on the same ones."""

SOLVED = 0.98
"""A baseline that scores as high leaves next to nothing to tune for."""


BARELY = 0.02
"""A prompt that has moved by less than this share of its start's length has barely moved."""

SHORT, LONG = 5, 150
"""Virtual tokens outside of which a warning is due: too little capacity, and an input that drowns."""

LOWER_IS_BETTER = ("perplexity", "mae")
"""Metrics of which less is better."""


def goodness(metric: str, value: float) -> float:
    """A value of a metric as a number of which more is better."""
    return -value if metric in LOWER_IS_BETTER else value


def is_best(metric: str, value: float) -> bool:
    """Whether nothing can be better."""
    return value <= 0 if metric in LOWER_IS_BETTER else value >= 1


def solves(metric: str, value: float) -> bool:
    """Whether a value leaves next to nothing to tune for: :data:`SOLVED` or more, or no error at all."""
    return value <= 0 if metric in LOWER_IS_BETTER else value >= SOLVED


def to_beat(metrics: Mapping[str, float], *, keeps_start: bool = False) -> list[str]:
    """The baselines among a prompt's metrics that it should be better than: not the text that it was distilled from, nor
    the prompt before training where that is itself."""
    itself = ("zero_shot",) * ("agreement" in metrics) + ("untrained",) * keeps_start
    return [name for name in BASELINES if name in metrics and name not in itself]


def value_beside(metrics: Mapping[str, float]) -> float | None:
    """The value of a prompt that its baselines compare with: that on their rows; None where it is unknown."""
    return metrics.get(VALUE_THERE, metrics.get("value"))


REFERENCE = "reference"
"""Where a recipe keeps how the rows looked that it was tuned for: beside what older readers know, who take what is there."""

TEMPERATURE, THRESHOLD, DECISION = "temperature", "threshold", "decision"
"""Where a recipe keeps what calibrates the probabilities of its labels, found on its validation rows, from which probability
on a label is in a set, found there too, and the question that its prompt was tuned to answer."""

Dtype = Literal["float32", "bfloat16", "float16", "int8"]
PromptType = Literal["soft", "prefix"]

_SET = "multi_label_classification"
"""The problem type of sets of labels."""

_OF_PREFIXES = ("prompt_type", "layers")
"""Fields that cards of soft prompts do not have: they were there first, and equal runs keep equal digests."""


class Card(BaseModel):
    """What is known of a prompt, stored inside its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    task: str
    """Name of the task the prompt was tuned for."""
    task_type: str = "CAUSAL_LM"
    base: str
    """Public name of the base: `builtin/tiny`, a hub id, or the last part of a folder."""
    fingerprint: str
    """Fingerprint of the exact base (weights, tokenizer, computing config)."""
    prompt_type: PromptType = "soft"
    """`soft` for vectors before an input, `prefix` for keys and values on every layer."""
    layers: tuple[tuple[int, int, int], ...] | None = None
    """Of a prefix, what each layer of its base has: heads of keys, the width of a key, the width of a value."""
    num_virtual_tokens: int = Field(ge=1)
    token_dim: int = Field(ge=1)
    """Numbers of a virtual token: the width of an embedding, or of a prefix all layers' keys and values."""
    dtype: Dtype = "float32"
    """How the file stores the vectors."""
    input: str = "{text}"
    """Template of the input, filled from a row."""
    target: str = " {label}"
    """Template of the target; the label, or the free text, as the model must say it."""
    labels: tuple[str, ...] | None = None
    """Labels in order; None for a task that generates."""
    metric: str = "accuracy"
    max_new_tokens: int = 32
    """Bound on generated tokens, for tasks without labels."""
    instruction: str | None = None
    """The text prompt that the soft prompt is compared with, where the task gave one."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Hyperparameters of the run that made it."""
    data_digest: str | None = None
    """Digest of the training rows, in order."""
    metrics: dict[str, float | int] = Field(default_factory=dict)
    """Scores of the run: `value` on the test split, the baselines, `validation`, `rows`; where baselines are of fewer rows,
    `baseline_rows`, and `value_on_baseline_rows` to compare them with; where inputs were cut, how many (`truncated`)."""
    parents: tuple[str, ...] = ()
    """Digests of the prompts this one was made from."""
    members: tuple[int, ...] = ()
    """Of an ensemble, the virtual tokens of each of its prompts, whose vectors lie in the file end to end: each stands alone
    before the input, and the answer is the mean of theirs. Empty for a prompt that is one."""

    @model_validator(mode="after")
    def _ensemble(self) -> Card:
        if self.members and (min(self.members) < 1 or sum(self.members) != self.num_virtual_tokens or len(self.members) < 2):
            raise ValueError(
                f"the members of an ensemble are two or more, of {self.num_virtual_tokens} virtual tokens together, and "
                f"this has {list(self.members)}"
            )
        if self.members and self.labels is None:
            raise ValueError("an ensemble answers with the mean over labels, and this one has none")
        if self.members and self.format < 2:
            raise ValueError(f"an ensemble has format 2 at least, and this says {self.format}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _format_of_newer(cls, raw: Any) -> Any:
        newer = isinstance(raw, dict) and (raw.get("prompt_type") == "prefix" or raw.get("task_type") == "SEQ_CLS")
        return {"format": 2, **raw} if newer else raw

    @model_validator(mode="after")
    def _labels_of_heads(self) -> Card:
        if self.task_type == "SEQ_CLS" and (not self.labels or self.format < 2 or self.members):
            raise ValueError("a prompt with a head has labels, is of format 2 at least, and no ensemble")
        return self

    @model_validator(mode="after")
    def _layers_of_prefixes(self) -> Card:
        if (self.prompt_type == "prefix") != (self.layers is not None):
            raise ValueError("a prefix, and nothing else, has layers")
        if self.layers is not None and sum(heads * (key + value) for heads, key, value in self.layers) != self.token_dim:
            raise ValueError(f"its layers have other numbers of keys and values than token_dim says ({self.token_dim})")
        return self

    @model_serializer(mode="wrap")
    def _as_it_is_kept(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        if self.prompt_type == "soft":
            fields = {name: value for name, value in fields.items() if name not in _OF_PREFIXES}
        return fields

    @property
    def num_labels(self) -> int:
        """Outputs of its head: one for each label, and two for each of a set, that it holds and that it does not."""
        return len(self.labels or ()) * (2 if self.recipe.get("problem_type") == _SET else 1)

    @property
    def centroid_width(self) -> int | None:
        """How wide its centroid is; None where nothing here says it: neither a prefix's rows nor an encoder's embeddings
        need be as wide as the states that it is made of, see ELECTRA."""
        return self.token_dim if self.prompt_type == "soft" and self.task_type not in ENCODERS else None

    @property
    def keeps_start(self) -> bool:
        """Whether it is the prompt that its training began with, as no step was better."""
        return self.recipe.get("best_step") == 0 and "steps" in self.recipe

    @property
    def learnt(self) -> bool | None:
        """Whether its score is better than each of its baselines on the same rows, or as good as one that solves the task;
        None where a score or all baselines are unknown."""
        others = to_beat(self.metrics, keeps_start=self.keeps_start)
        value, known = value_beside(self.metrics), [self.metrics[name] for name in others]
        if value is None or not known:
            return None
        best = max(known, key=lambda one: goodness(self.metric, one))
        ahead = goodness(self.metric, value) - goodness(self.metric, best)
        return ahead > 0 or (ahead == 0 and solves(self.metric, best))

    @property
    def usual_rates(self) -> str:
        """For messages: learning rates that prompts of its kind are trained with."""
        if self.prompt_type == "soft":
            return "0.03 to 0.3"
        return "0.02 to 0.3" if self.task_type in ENCODERS else "0.002 to 0.03"

    @property
    def exact_base(self) -> str:
        """For messages: the base, and its commit where it came from the hub."""
        revision = self.recipe.get("revision")
        return f"{self.base}@{revision}" if revision else self.base

    @property
    def adapter_hint(self) -> str:
        """For messages about another base: that this one had an adapter, where it had one."""
        adapter = self.recipe.get("adapter")
        return f" with the adapter {adapter!r} merged into it (--base-adapter FOLDER)" if adapter else ""

    def changed(self, changes: Mapping[str, Any]) -> Card:
        """This card with other fields. Its scores go where they were those of other templates, labels or another metric.

        Raises:
            ValueError: a field is unknown or of the wrong type.
            ConfigError: it is an ensemble, and would have no labels.
        """
        if self.members and changes.get("labels", self.labels) is None:
            raise ConfigError(
                f"a prompt of task {self.task!r} is an ensemble, which chooses a label; it cannot be one that generates"
            )
        labels = changes.get("labels", self.labels) or ()
        if self.task_type == "SEQ_CLS" and len(labels) != len(self.labels or ()):
            raise ConfigError(
                f"a prompt of task {self.task!r} has a head for {len(self.labels or ())} labels, in their order, and "
                f"{len(labels)} were given; give as many"
            )
        new = Card.model_validate({**self.model_dump(), **changes})
        if any(getattr(self, name) != getattr(new, name) for name in SCORED):
            others = ("label_end", REFERENCE, TEMPERATURE, THRESHOLD, DECISION)  # of other labels, too
            recipe = {name: value for name, value in new.recipe.items() if name not in others}
            return new.model_copy(update={"metrics": {}, "recipe": recipe})
        return new

    def form(self) -> dict[str, Any]:
        """The fields that say what is asked of a prompt, for another prompt to take over."""
        return {name: getattr(self, name) for name in (*SCORED, "max_new_tokens", "instruction")}

    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no spaces, UTF-8 as it is. Equal cards give equal text."""
        said = self.model_dump(mode="json")
        if not self.members:  # which cards of before do not say
            del said["members"]
        return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def parse(cls, text: str) -> Card:
        """Read a card from its JSON.

        Raises:
            PromptFileError: not JSON, a newer format, or fields missing, unknown or of the wrong type.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PromptFileError(f"the card of this prompt file is not JSON ({error}); fetch the file again") from None
        if not isinstance(raw, dict):
            raise PromptFileError("the card of this prompt file is not a JSON object; fetch the file again")
        if isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
            raise PromptFileError(
                f"this prompt file has format {raw['format']}, and this softprompt reads up to {FORMAT}; upgrade softprompt"
            )
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise PromptFileError(
                f"the card of this prompt file is wrong at {where!r}: {first['msg']}; fetch the file again"
            ) from None
