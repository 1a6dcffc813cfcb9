"""Keys of a task file that have no say beside its others. They are told, not refused: the candidates of a sweep differ in
what asks for them, and files brought from elsewhere name them all. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import BaseModel

from softprompt.tasks.config.config import TaskConfig

_Applies = Callable[[TaskConfig], bool]

_ONLY_WITH: tuple[tuple[tuple[str, ...], _Applies, str], ...] = (
    (("prompt_tuning_init_text",), lambda config: config.initializer == "TEXT", "`prompt_tuning_init: TEXT`"),
    (("prompt_tuning_init_prompt",), lambda config: config.initializer == "PROMPT", "`prompt_tuning_init: PROMPT`"),
    (
        ("encoder_hidden_size",),
        lambda config: config.encoder_reparameterization_type is not None,
        "an `encoder_reparameterization_type`",
    ),
    (("unwanted", "unwanted_weight"), lambda config: config.objective == "unlikelihood", "`objective: unlikelihood`"),
    (("rejected", "preference_beta"), lambda config: config.objective == "preference", "`objective: preference`"),
    (("adam_beta2",), lambda config: config.optim == "adamw", "`optim: adamw`"),
    (
        ("warmup_ratio", "warmup_steps"),
        lambda config: config.lr_scheduler_type != "constant",
        "a schedule that warms up, such as `lr_scheduler_type: constant_with_warmup`",
    ),
    (("num_train_epochs",), lambda config: config.max_steps is None, "a file without `max_steps`"),
    (
        ("warmup_ratio",),
        lambda config: config.warmup_steps is None or config.lr_scheduler_type == "constant",  # which is told above
        "a file without `warmup_steps`",
    ),
    (
        ("tokenizer_name_or_path",),
        lambda config: config.base in (None, config.tokenizer_name_or_path),
        "a file without `base`",
    ),
    (("data.name",), lambda config: config.data is None or config.data.dataset is not None, "a `data.dataset`"),
    (
        ("retrieve.words", "retrieve.overlap"),
        lambda config: config.retrieve is None or config.retrieve.function is None,
        "a `retrieve.folder`",
    ),
)
"""Keys, whether what else the file says lets them have a say, and what would."""


def idle_keys(config: TaskConfig) -> Iterator[str]:
    """What to say of keys that differ from their defaults and have no say, a line for each."""
    for keys, applies, need in _ONLY_WITH:
        if given := [] if applies(config) else [key for key in keys if _differs(config, key)]:
            has, it = ("has", "it") if len(given) == 1 else ("have", "them")
            yield f"{' and '.join(given)} {has} no effect here: only {need} gives {it} one; say so, or leave {it} out"


def _differs(config: TaskConfig, key: str) -> bool:
    block, _, name = key.rpartition(".")
    owner: BaseModel | None = getattr(config, block) if block else config
    return owner is not None and getattr(owner, name) != type(owner).model_fields[name].default
