"""The blocks of a task file: where its rows come from, and how its prompt wishes to be served. No torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from softprompt.text import lone_surrogate


class Strict(BaseModel):
    """Frozen, and no key, truth value, infinite number or half of a character that is not meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would take a truth value for the number 1 or 0.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation not in (bool, bool | None):
            raise ValueError(
                f"no truth value is meant here, and the file says {value!r} (YAML reads yes, no, on and off so); "
                "put a word in quotes"
            )
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and lone_surrogate(text):
                raise ValueError(f"{text!r} holds half of a surrogate pair, which is no character; mend it")
        return value


class DataConfig(Strict):
    """Where the rows of a task come from."""

    train: str
    """A file, of a kind that `rows/tables.py` reads, or the name of a split of `dataset`."""
    validation: str | float | None = None
    """A file or split, or the share of the training rows to hold out; by default a tenth of them. Where they are few, each
    is held out in turn instead (:data:`softprompt.tasks.splits.FEW`)."""
    test: str | float | None = None
    """A file or split, or a share of the training rows; by default a tenth of them."""
    dataset: str | None = None
    """A data set of the Hugging Face hub; then train, validation and test name its splits."""
    name: str | None = None
    """Configuration of the hub data set."""
    group: str | None = Field(default=None, min_length=1)
    """A column: rows that are equal in it stay in one split, such as those of one conversation or one customer; by default
    those of one input do."""
    subsets: int | None = Field(default=None, ge=2, le=32)
    """Train so many prompts, each on a part of the training rows of its own, and combine them into one version: an ensemble
    where there are labels, else their mean."""

    @field_validator("validation", "test")
    @classmethod
    def _share(cls, value: str | float | None) -> str | float | None:
        if isinstance(value, float | int) and not 0 < value < 1:
            raise ValueError(f"a share lies between 0 and 1, and this is {value}; write one such as 0.1")
        return value


class RetrieveConfig(Strict):
    """How the passages of inputs are found, which `{passages}` stands for."""

    folder: str | None = None
    """A folder of texts (.txt, .md), beside the task file."""
    function: str | None = None
    """Instead, FILE.py:NAME: a Python function in a file beside the task file, from a question and k to a list of texts."""
    query: str | None = None
    """Template of the question, with the names of columns in braces; by default the input's one other column."""
    k: int = Field(default=3, ge=1, le=1000)
    """Passages at most."""
    words: int = Field(default=100, ge=1)
    """Words of a passage of the folder at most."""
    overlap: int = Field(default=0, ge=0)
    """Words that such a passage repeats of the one before it in its file."""


class ServingConfig(Strict):
    """How a prompt wishes to be served. One server has the prompts of many files: `softprompt serve` goes by what they say
    where its own options are silent, and warns where it cannot."""

    base_model_device: str | None = None
    """Device of the base, such as `cuda:0`."""
    prompt_cache_size: int | None = Field(default=None, ge=1)
    """How many prompts stay in memory."""
    prompt_storage: str | None = None
    """URL of the store."""
    swap_latency_budget_ms: float | None = Field(default=None, gt=0)
    """Time that a swap to this prompt, from its name to its vectors in memory, may take."""
    chat_input: Literal["last_user_message", "conversation"] | None = None
    """What of a chat is the input: the last message of the user, which is the default, or for prompts that were tuned on
    whole conversations all messages, joined by newlines."""
