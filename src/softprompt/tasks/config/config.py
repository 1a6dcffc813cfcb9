"""The configuration of a task: a YAML file in the words of Hugging Face and PEFT, checked key by key. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from softprompt.bases.grammar import schema_text
from softprompt.bases.options import DEFAULT_BASE, BaseOptions
from softprompt.errors import ConfigError
from softprompt.prompts.card import DECISION
from softprompt.tasks.answers.decision import DecisionConfig, check_decision, with_decision
from softprompt.tasks.answers.kinds import NUMBER, OF_SETS, SET, ProblemType, check_kind, check_no_answer
from softprompt.tasks.answers.labels import check_labels, with_label_texts
from softprompt.tasks.answers.patterns import check_unwanted
from softprompt.tasks.answers.schema import check_schema
from softprompt.tasks.config.blocks import DataConfig, RetrieveConfig, ServingConfig, Strict
from softprompt.tasks.config.foreign import refusal
from softprompt.tasks.config.task_file import read_task_file

TaskType = Literal["CAUSAL_LM", "SEQ_2_SEQ_LM", "MASKED_LM", "SEQ_CLS", "TOKEN_CLS"]
Initializer = Literal["RANDOM", "SAMPLE_VOCAB", "TEXT", "LABELS", "PROMPT", "INSTRUCTION"]
Reparameterization = Literal["RESIDUAL", "MLP", "LSTM", "LOW_RANK"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
MetricName = Literal[
    "accuracy", "f1", "exact_match", "token_f1", "micro_f1", "macro_f1", "subset_accuracy", "mae", "spearmanr"
]
PromptType = Literal["soft", "prefix"]
ObjectiveName = Literal["label_scoring", "language_modelling", "distillation", "unlikelihood", "preference"]

PREFIX_LENGTH = 20
"""Virtual tokens of a prefix by default: each holds many times the numbers of a soft prompt's."""

OF_LABELS = ("accuracy", "f1", "label_scoring", *OF_SETS)
"""Metrics and objectives that need labels; the others take any answer."""


class TaskConfig(Strict):
    """Everything that says what a prompt is tuned for and how. The names are those of Hugging Face and PEFT."""

    task: str | None = None
    """Name of the task; by default the name of the file."""
    base: str | None = None
    """The base model: builtin/tiny, a hub id, id@revision or a folder."""
    base_adapter: str | None = None
    """Folder of a LoRA adapter to merge into the base."""
    trust_remote_code: bool = False
    """Whether to run code that comes with the base."""
    tokenizer_name_or_path: str | None = None
    """As in PEFT, the base's own tokenizer; names the base where `base` does not."""
    peft_type: Literal["PROMPT_TUNING", "PREFIX_TUNING"] = "PROMPT_TUNING"
    """Accepted because PEFT's files have it; PREFIX_TUNING means `prompt_type: prefix`."""
    task_type: TaskType | None = None
    """What kind of model the base is; by default what it is."""
    data: DataConfig | None = None
    """Where the rows are."""

    decision: DecisionConfig | None = None
    """The question that the prompt is tuned to answer, as `/v1/decisions` asks it; it says what the labels are."""
    retrieve: RetrieveConfig | None = None
    """How `{passages}` in `input` are found; without it they are a column of the rows."""
    no_answer: str | None = Field(default=None, min_length=1)
    """The answer of rows whose own is empty, such as unknown: that it does not stand in the passages."""
    input: str = "{text}"
    """Template of the input, with the names of columns in braces."""
    target: str = " {label}"
    """Template of what the model must answer."""
    labels: tuple[str, ...] | None = None
    """The labels to choose from; without them the task generates text."""
    fold_labels: bool = False
    """Take answers for a label that differ from it by case, by spaces or as numbers are written (1, 1.0) alone."""
    id2label: dict[str, str] | None = None
    """Labels for answers as the rows have them: `{0: negative, 1: positive}`; they are `labels` where none are given."""
    problem_type: ProblemType | None = None
    """As a classifier's config says it: by default one label where there are `labels`, else free text."""
    label_separator: str | None = None
    """What stands between the labels of a set where a row has them as one text; by default a semicolon."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """From which probability on a label of a set holds; by default the best one on the validation rows."""
    answer_range: tuple[float, float] | None = None
    """The lowest and the highest number that may be generated; by default those of the training rows."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """What a row with a label counts in training: so that all labels count alike, or as the mapping says, else 1."""
    metric: MetricName | None = None
    """By default accuracy with labels, micro_f1 for sets of them, mae for numbers, else exact_match."""
    instruction: str | None = None
    """Text prompt of the zero-shot baseline, and what distillation puts into a prompt; by default one that lists the
    labels."""
    instruction_file: str | None = None
    """A file of text that holds it, beside the task file."""
    output_schema: str | None = None
    """A JSON schema that every generated answer is held to: the prompt writes JSON of it and nothing else."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Bound on a generated answer."""

    prompt_type: PromptType = "soft"
    """`soft` for vectors before the input, `prefix` for keys and values on every layer."""
    num_virtual_tokens: int = Field(default=50, ge=1)
    """P, the length of the prompt; of a prefix 20 by default, or as many as the prompt that it starts from."""
    prompt_tuning_init: Initializer | None = None
    """Where the vectors start; by default LABELS with labels, else SAMPLE_VOCAB; for distillation INSTRUCTION."""
    prompt_tuning_init_text: str | None = None
    """Text for TEXT."""
    prompt_tuning_init_prompt: tuple[str, ...] = ()
    """For PROMPT: references of prompts in the library (`task@3`), of which the mean is taken."""
    encoder_reparameterization_type: Reparameterization | None = None
    """What stands before the vectors while they are trained: RESIDUAL adds to each what a small network makes of it, MLP
    puts that in its place, LSTM what it reads from both ends of the prompt; LOW_RANK leaves them where they start and adds a
    matrix of low rank. The prompt that comes out is plain vectors all the same."""
    encoder_hidden_size: int = Field(default=64, ge=1)
    """Hidden units of that network. Of LOW_RANK the rank: by default 8, or half of the vectors where that is less."""

    learning_rate: float | None = Field(default=None, gt=0, lt=100)
    """By default 0.45 of the spread of the base's embeddings: 0.048 on builtin/tiny. Of a prefix 0.005 of the spread of the
    keys and values that it starts from, and on encoders 0.05."""
    learning_rate_multiplier: float = Field(default=1.0, gt=0, lt=100)
    """Of that default."""
    num_train_epochs: float | None = Field(default=None, gt=0)
    """By default three, and more where that makes fewer than 200 steps, or 100 with 64 rows or fewer."""
    max_steps: int | None = Field(default=None, ge=1)
    """Overrides num_train_epochs."""
    per_device_train_batch_size: int = Field(default=64, ge=1)
    warmup_ratio: float = Field(default=0.06, ge=0, lt=1)
    warmup_steps: int | None = Field(default=None, ge=0)
    """Overrides warmup_ratio."""
    weight_decay: float = Field(default=0.0, ge=0)
    lr_scheduler_type: Scheduler = "cosine"
    optim: Literal["adamw", "adafactor"] = "adamw"
    adam_beta2: float = Field(default=0.98, ge=0, lt=1)
    """How much AdamW keeps of its second moment at each step: a run of a few hundred steps has no time for 0.999."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Bound on the norm of the prompt's gradient."""
    gradient_checkpointing: bool = False
    """Keep no activations inside the base's layers and make them again on the way back: less memory, more time."""
    torch_compile: bool | None = None
    """Compile norms and feed-forward blocks for the training steps; by default on a CPU where a run is long enough to pay
    for it. The results differ by rounding."""
    objective: ObjectiveName | None = None
    """By default language_modelling, and on encoders label_scoring; distillation trains the prompt to answer as the base
    does behind `instruction`, unlikelihood keeps it from `unwanted` answers, preference has it prefer one answer to another.
    `language_modeling` is read too, and kept in cards as language_modelling, so that equal
    runs keep equal digests."""
    unwanted: str | None = None
    """For unlikelihood: the column of answers that must not come, empty where a row has none."""
    unwanted_weight: float = Field(default=1.0, gt=0)
    """Of the unwanted answers beside the right ones."""
    unwanted_patterns: tuple[str, ...] = ()
    """For unlikelihood: what the prompt must not write, words or `/regular expressions/`. It writes answers to training
    inputs, and those that match become unwanted ones."""
    unwanted_every: int = Field(default=20, ge=1)
    """Steps from one such sample to the next."""
    unwanted_rows: int = Field(default=16, ge=1)
    """Training rows of a sample, of those that the steps until the next one train."""
    unwanted_temperature: float = Field(default=1.0, ge=0, le=10)
    """Of a sample; 0 writes what is likeliest."""
    rejected: str = "rejected"
    """For preference: the column of the answers that the target's column, by default `chosen`, is preferred to."""
    preference_beta: float = Field(default=0.1, gt=0)
    """How steeply preference counts a margin."""
    eval_per_epoch: int | None = Field(default=None, ge=1)
    """Validations in an epoch; by default one, and fewer where that makes more than 20 of a run."""
    max_eval_samples: int | None = Field(default=256, ge=1)
    """Rows of a validation at most, drawn by what they hold; null for all."""
    max_baseline_samples: int | None = Field(default=256, ge=1)
    """Test rows of the baselines at most, drawn likewise; null for all. The prompt itself is judged on all test rows."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better one; by default never."""
    seed: int = Field(default=0, ge=0, lt=2**63)

    serving: ServingConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _label_texts(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        chosen = {"target": " {chosen}"} if raw.get("objective") == "preference" else {}
        return chosen | with_label_texts(with_decision(raw))

    @field_validator("prompt_tuning_init_prompt", "unwanted_patterns", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("output_schema", mode="before")
    @classmethod
    def _schema(cls, value: Any) -> Any:
        # Kept as text: of a schema the order of its keys counts, which is the order in which they are written.
        try:
            return value if value is None else schema_text(value, "output_schema")
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @field_validator("optim", mode="before")
    @classmethod
    def _optimiser(cls, value: Any) -> Any:
        return "adamw" if value in ("adamw_torch", "adamw_torch_fused", "adamw_hf") else value

    @field_validator("objective", mode="before")
    @classmethod
    def _objective(cls, value: Any) -> Any:
        return "language_modelling" if value == "language_modeling" else value

    @field_validator("data", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return {"train": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> TaskConfig:
        if self.learning_rate is not None and self.learning_rate_multiplier != 1:
            raise ValueError(
                "learning_rate_multiplier: learning_rate is given too, which is no default; leave one of them out"
            )
        labels = self.labels
        if labels is not None:
            check_labels(labels, fold=self.fold_labels, words=self.id2label or {})
        elif self.fold_labels:
            raise ValueError("fold_labels: there are no `labels` to fold to; list them")
        if labels is None and self.metric in OF_LABELS:
            raise ValueError(f"metric: {self.metric} needs `labels`; list them, or use exact_match")
        if labels is None and self.objective in OF_LABELS:
            raise ValueError(f"objective: {self.objective} needs `labels`; list them, or use language_modelling")
        if self.peft_type == "PREFIX_TUNING" and self.prompt_type == "soft":
            if "prompt_type" in self.model_fields_set:
                raise ValueError(
                    "peft_type: PREFIX_TUNING is no soft prompt, and prompt_type says soft; leave one of them out"
                )
            self.__dict__["prompt_type"] = "prefix"
        if self.prompt_type == "prefix" and "num_virtual_tokens" not in self.model_fields_set:
            self.__dict__["num_virtual_tokens"] = PREFIX_LENGTH  # a default still, which another prompt_type has not
        if self.encoder_reparameterization_type == "LOW_RANK" and self.hidden_size >= self.num_virtual_tokens:
            raise ValueError(
                f"encoder_hidden_size: rank {self.hidden_size} of {self.num_virtual_tokens} vectors is no low rank; "
                "give one below num_virtual_tokens"
            )
        check_kind(self)
        if self.output_schema is not None:
            check_schema(self)
        check_decision(self.decision, labels, self.problem_type)
        if self.no_answer is not None:
            check_no_answer(self.no_answer, labels, self.problem_type)
        if self.instruction is not None and self.instruction_file is not None:
            raise ValueError("instruction_file: `instruction` is given too; leave one of them out")
        if self.objective == "distillation" and not (self.instruction or "").strip() and self.instruction_file is None:
            raise ValueError("objective: distillation needs the text to distill; give `instruction` or `instruction_file`")
        check_unwanted(self)
        init = self.prompt_tuning_init
        if init == "LABELS" and labels is None:
            raise ValueError("prompt_tuning_init: LABELS needs `labels`; list them, or use SAMPLE_VOCAB")
        if init == "TEXT" and not self.prompt_tuning_init_text:
            raise ValueError("prompt_tuning_init: TEXT needs prompt_tuning_init_text; give it")
        if init == "PROMPT" and not self.prompt_tuning_init_prompt:
            raise ValueError("prompt_tuning_init: PROMPT needs prompt_tuning_init_prompt; give one such as `trec6@3`")
        if init == "INSTRUCTION" and not (self.instruction or self.instruction_file):
            raise ValueError("prompt_tuning_init: INSTRUCTION needs `instruction`; give it")
        return self

    @property
    def base_options(self) -> BaseOptions:
        """The base to load, and how."""
        source = self.base or self.tokenizer_name_or_path or DEFAULT_BASE
        return BaseOptions(source=source, adapter=self.base_adapter, trust_remote_code=self.trust_remote_code)

    @property
    def metric_name(self) -> MetricName:
        """The metric, chosen where the file is silent."""
        of_kind: MetricName = "micro_f1" if self.problem_type == SET else "mae"
        if self.problem_type in (SET, NUMBER):
            return self.metric or of_kind
        return self.metric or ("accuracy" if self.labels else "exact_match")

    @property
    def hidden_size(self) -> int:
        """Hidden units, or the rank, chosen where the file is silent."""
        if self.encoder_reparameterization_type != "LOW_RANK" or "encoder_hidden_size" in self.model_fields_set:
            return self.encoder_hidden_size
        return max(1, min(8, self.num_virtual_tokens // 2))

    @property
    def initializer(self) -> Initializer:
        """The initialiser, chosen where the file is silent."""
        if self.prompt_tuning_init:
            return self.prompt_tuning_init
        if self.prompt_tuning_init_prompt:
            return "PROMPT"
        if self.prompt_tuning_init_text:
            return "TEXT"
        if self.objective == "distillation":
            return "INSTRUCTION"
        return "LABELS" if self.labels else "SAMPLE_VOCAB"

    @property
    def objective_name(self) -> ObjectiveName:
        """The objective, chosen where the file is silent."""
        return self.objective or "language_modelling"

    @property
    def of_objective(self) -> dict[str, Any]:
        """What it says for its objective alone."""
        patterns = OF_PATTERNS if self.unwanted_patterns else ()
        keys: dict[str, tuple[str, ...]] = {
            "unlikelihood": ("unwanted", "unwanted_weight", *patterns),
            "preference": ("rejected", "preference_beta"),
        }
        return {key: getattr(self, key) for key in keys.get(self.objective_name, ())}

    def recipe(self) -> dict[str, Any]:
        """The hyperparameters that a card keeps."""
        kept: tuple[str, ...] = (
            "prompt_tuning_init_text", "learning_rate", "num_train_epochs", "max_steps",
            "per_device_train_batch_size", "warmup_ratio", "warmup_steps", "weight_decay", "lr_scheduler_type", "optim",
            "adam_beta2", "max_grad_norm", "eval_per_epoch", "early_stopping_patience", "seed",
        )  # fmt: skip
        kept += tuple(key for key in _KEPT if getattr(self, key))
        if self.encoder_reparameterization_type:
            kept += ("encoder_reparameterization_type", "encoder_hidden_size")
        values = {key: getattr(self, key) for key in kept}
        values |= self.of_objective
        values |= {"prompt_tuning_init": self.initializer, "objective": self.objective_name}
        if self.decision is not None:
            values[DECISION] = self.decision.model_dump(mode="json", exclude_none=True)
        return {key: value for key, value in values.items() if value is not None}


_KEPT = (
    "fold_labels", "id2label", "problem_type", "label_separator", "threshold", "answer_range", "class_weights", "no_answer",
    "output_schema",
)  # fmt: skip
"""Keys of a task file that a card's recipe has where they are given."""

OF_PATTERNS = ("unwanted_patterns", "unwanted_every", "unwanted_rows", "unwanted_temperature")
"""Keys that need `unwanted_patterns`."""

_BLOCKS: dict[str, type[BaseModel]] = {
    "data": DataConfig, "serving": ServingConfig, "retrieve": RetrieveConfig, "decision": DecisionConfig,
}  # fmt: skip
_KEYS = {None: [*TaskConfig.model_fields]} | {name: [*block.model_fields] for name, block in _BLOCKS.items()}
"""Of a task file, and of its blocks."""


def keys_of_base(base: BaseOptions) -> dict[str, Any]:
    """What a task file says to name a base."""
    named: dict[str, Any] = {"base": base.address}
    named |= {} if base.adapter is None else {"base_adapter": base.adapter}
    return named | ({"trust_remote_code": True} if base.trust_remote_code else {})


def read_config(path: str | Path) -> TaskConfig:
    """Read a task file.

    Raises:
        ConfigError: not there, not YAML, or a key is unknown, missing or of the wrong type.
    """
    return parse_config({"task": Path(path).stem, **read_task_file(path)}, where=str(path))


def parse_config(raw: dict[str, Any], *, where: str = "task") -> TaskConfig:
    """Check a configuration that is already a dictionary.

    Raises:
        ConfigError: every fault of it, with the nearest known name for unknown keys.
    """
    try:
        return TaskConfig.model_validate(raw)
    except ValidationError as error:
        raise refusal(error, _KEYS, where) from None
