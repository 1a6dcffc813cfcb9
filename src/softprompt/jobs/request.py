"""The body of a request for a job: what OpenAI's clients send, checked as far as no row is needed for it. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from softprompt.errors import FieldError, nearest
from softprompt.tasks.config.config import TaskConfig
from softprompt.text import lone_surrogate

SUPERVISED, DPO = "supervised", "dpo"


class _Strict(BaseModel):
    """Takes no key that it does not know, and tells the nearest one."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                hint = nearest(str(name), cls.model_fields)
                if issubclass(cls, JobRequest | Hyperparameters) and name in TaskConfig.model_fields:
                    hint = "; keys of a task file go into `softprompt`"
                context = {"message": f"unknown key {name!r}{hint}", "code": "unknown_parameter", "param": str(name)}
                raise PydanticCustomError("refused", "{message}", context)
        return data


class Hyperparameters(_Strict):
    """The hyperparameters that OpenAI's clients send."""

    n_epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """By default three, and more where that makes fewer than 200 steps, or 100 with 64 rows or fewer."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Rows in a step; by default 64."""
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | None = None
    """Of the usual learning rate of a soft prompt."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The learning rate itself."""

    @field_validator("*", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return None if value == "auto" else value


class PreferenceHyperparameters(Hyperparameters):
    """The same of the method `dpo`."""

    beta: Annotated[float, Field(gt=0, le=100)] | None = None
    """How steeply a margin counts; by default 0.1."""


class Supervised(_Strict):
    """Settings of the supervised method."""

    hyperparameters: Hyperparameters | None = None


class Preference(_Strict):
    """Settings of the method `dpo`."""

    hyperparameters: PreferenceHyperparameters | None = None


class Method(_Strict):
    """How to train."""

    type: str
    """`supervised`, or `dpo` for preferences."""
    supervised: Supervised | None = None
    dpo: Preference | None = None
    reinforcement: Any = None


class JobRequest(_Strict):
    """The body of a request for a fine-tuning job."""

    model: str
    """Name of the base."""
    training_file: str
    """Id of an uploaded file."""
    validation_file: str | None = None
    """Id of an uploaded file; by default a tenth of the training rows is held out."""
    suffix: str | None = None
    """Name of the task; by default that of the training file."""
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    metadata: dict[str, str] | None = None
    integrations: list[Any] | None = None
    softprompt: dict[str, Any] | None = None
    """Any key of a task file."""


def shown_hyperparameters(request: JobRequest) -> dict[str, Any]:
    """The hyperparameters of a request as an answer shows them."""
    names = ("n_epochs", "batch_size", "learning_rate_multiplier", *(("beta",) if is_preference(request) else ()))
    return dict.fromkeys(names, "auto") | _requested(request)


def is_preference(request: JobRequest) -> bool:
    """Whether a request is for preferences."""
    return request.method is not None and request.method.type == DPO


def _requested(request: JobRequest) -> dict[str, Any]:
    chosen = _of_method(request) or request.hyperparameters
    return {} if chosen is None else chosen.model_dump(exclude_none=True)


def refuse_unsupported(request: JobRequest) -> None:
    try:
        half = lone_surrogate(json.dumps(request.model_dump(mode="python"), ensure_ascii=False, allow_nan=False))
    except RecursionError:
        raise FieldError("the body is nested too deeply; mend it") from None
    except ValueError:
        raise FieldError("a number in the body is too large (such as 1e999), and none may be infinite; mend it") from None
    if half is not None:
        raise FieldError(f"{half!a} in the body is half of a surrogate pair and no character; mend it")
    if request.integrations:
        raise FieldError(
            "integrations are not supported; leave them out, and read the job's events and its file of results",
            "integrations",
        )
    for key, value in (request.metadata or {}).items():
        if len(key) > 64 or len(value) > 512 or len(request.metadata or ()) > 16:
            raise FieldError("metadata is too large; give at most 16 keys of 64 characters, with values of 512", "metadata")
    method = request.method
    if method is not None:
        _refuse_method(method)
    if request.hyperparameters is not None and method is not None and _of_method(request) is not None:
        raise FieldError(f"hyperparameters are given twice; keep those in method.{method.type}", "hyperparameters")


def _refuse_method(method: Method) -> None:
    if method.type == "reinforcement" or method.reinforcement is not None:
        raise FieldError(
            "the method 'reinforcement' is not supported: there are no graders here; have the answers judged, and use 'dpo' "
            "with a better and a worse one of each, or 'supervised' with the best",
            "method",
        )
    if method.type not in (SUPERVISED, DPO):
        raise FieldError(f"the method {method.type!r} is not supported; use {SUPERVISED!r} or {DPO!r}", "method")
    other = SUPERVISED if method.type == DPO else DPO
    if getattr(method, other) is not None:
        raise FieldError(f"the method is {method.type!r}, and settings of {other!r} are given; leave them out", "method")


def _of_method(request: JobRequest) -> Hyperparameters | None:
    method = request.method
    settings = None if method is None else method.dpo if method.type == DPO else method.supervised
    return settings.hyperparameters if settings is not None else None


def hyperparameters_of(request: JobRequest, config: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters in the words of a task file."""
    requested = _requested(request)
    if "learning_rate" in requested and "learning_rate_multiplier" in requested:
        raise FieldError(
            "learning_rate and learning_rate_multiplier are both given; leave one of them out", "hyperparameters"
        )
    if requested.get("learning_rate", 0.0) >= 100:
        raise FieldError(
            f"a learning rate of {requested['learning_rate']:g} is too high; 0.03 to 0.3 is usual", "hyperparameters"
        )
    names = {"n_epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size", "beta": "preference_beta"}
    keys = {names.get(key, key): value for key, value in requested.items()}
    if request.seed is not None:
        keys["seed"] = request.seed
    for key, value in keys.items():
        if key in config and config[key] != value:
            raise FieldError(f"softprompt.{key} says {config[key]!r} and the request {value!r}; say it once", "softprompt")
    return keys
