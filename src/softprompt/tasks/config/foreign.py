"""Keys that people bring from PEFT, TRL and other trainers, and what stands for each here. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from softprompt.errors import ConfigError, nearest
from softprompt.rows.values import short

_SAME = {
    "learning_rate": "lr base_learning_rate",
    "num_train_epochs": "epochs n_epochs num_epochs epoch max_epochs",
    "max_steps": "steps n_steps num_steps num_training_steps max_train_steps num_train_steps",
    "per_device_train_batch_size": "batch_size bs train_batch_size batch micro_batch_size global_batch_size "
    "per_gpu_train_batch_size",
    "warmup_steps": "num_warmup_steps lr_warmup_steps",
    "warmup_ratio": "warmup warmup_proportion",
    "weight_decay": "wd decay",
    "lr_scheduler_type": "lr_scheduler scheduler lr_schedule",
    "optim": "optimizer optimiser",
    "max_grad_norm": "gradient_clipping gradient_clip_val clip_grad_norm grad_clip clip_norm",
    "seed": "random_seed random_state data_seed",
    "num_virtual_tokens": "n_tokens num_tokens prompt_length soft_prompt_length n_prompt_tokens prompt_tokens "
    "virtual_tokens num_prompt_tokens prompt_len",
    "prompt_tuning_init": "init initializer init_method prompt_init",
    "prompt_tuning_init_text": "init_text initial_text prompt_text initialize_from_text",
    "prompt_tuning_init_prompt": "init_prompt init_from source_prompt",
    "encoder_hidden_size": "encoder_hidden mlp_hidden_size",
    "encoder_reparameterization_type": "reparameterization reparametrization reparameterize",
    "early_stopping_patience": "patience early_stopping",
    "max_new_tokens": "max_tokens max_target_length generation_max_length max_completion_length max_completion_tokens "
    "max_output_tokens",
    "labels": "label_names classes class_names label_list choices candidate_labels label2id num_labels",
    "metric": "metric_for_best_model metrics eval_metric compute_metrics",
    "input": "template prompt prompt_template input_template input_text text_column dataset_text_field input_column "
    "text_template preprocessing_template",
    "target": "output target_template output_template label_column response_template answer completion target_column",
    "instruction": "system system_prompt zero_shot_prompt",
    "base": "model model_name model_name_or_path base_model base_model_name_or_path pretrained_model_name_or_path "
    "pretrained_model_name model_id",
    "base_adapter": "adapter lora peft_model_id adapter_path adapter_name_or_path",
    "task": "name task_name run_name suffix",
    "data": "dataset_name dataset train_file training_file data_path train_data train_dataset files",
    "data.train": "train",
    "data.validation": "validation valid val eval_dataset eval_file validation_file",
    "data.test": "test test_file test_dataset",
    "data.name": "dataset_config_name",
    "objective": "loss loss_type",
    "eval_per_epoch": "eval_frequency evals_per_epoch",
    "max_eval_samples": "max_val_samples max_validation_samples eval_samples max_eval_rows",
    "max_baseline_samples": "baseline_samples max_baseline_rows",
    "gradient_checkpointing": "activation_checkpointing use_gradient_checkpointing",
}  # fmt: skip

_OF_DATA = {
    "data.train": "train_file training_file train_dataset file",
    "data.validation": "validation_file eval_file eval_dataset valid val dev eval",
    "data.test": "test_file test_dataset",
    "data.dataset": "dataset_name path hub",
    "data.name": "dataset_config_name config subset",
}

_NONE = {
    "evaluation_strategy eval_strategy eval_steps": "it is judged at the end of each epoch; say how often with "
    "eval_per_epoch",
    "save_steps save_strategy save_total_limit output_dir overwrite_output_dir resume_from_checkpoint": "checkpoints are "
    "written by themselves, and the same command goes on from the last one",
    "load_best_model_at_end": "the best prompt on the validation rows is always the one that is kept",
    "report_to": "a tracker is no matter of the task: `softprompt train --report-to tensorboard` names one",
    "logging_steps logging_strategy logging_dir": "progress is shown by itself, and `--json` prints rows for machines",
    "gradient_accumulation_steps": "a batch that does not fit is halved by itself; give the whole batch as "
    "per_device_train_batch_size",
    "per_device_eval_batch_size eval_batch_size": "evaluation fills its batches by itself; leave it out",
    "fp16 bf16 half torch_dtype dtype precision": "the dtype is no matter of the task: it is said where the base is "
    "loaded (`--dtype`)",
    "device device_map no_cuda use_cpu": "the device is no matter of the task: it is said where the base is loaded "
    "(`--device`)",
    "load_in_8bit load_in_4bit quantization quantization_config bits": "the base's numbers are no matter of "
    "the task: that is said where the base is loaded (`--quantization`)",
    "max_length max_seq_length max_seq_len model_max_length max_source_length max_input_length block_size truncation "
    "max_prompt_length": "an input that does not fit the context is cut and counted by itself; leave it out",
    "padding padding_side packing group_by_length remove_unused_columns dataloader_num_workers": "rows are laid out by "
    "themselves; leave it out",
    "token_dim num_layers num_attention_heads num_transformer_submodules": "the shape is that of the base; leave it out",
    "inference_mode do_train do_eval do_predict": "the command says what is done; leave it out",
    "lora_alpha lora_dropout target_modules r lora_rank": "this is a key of LoRA, which changes the base; a soft prompt has "
    "none of it",
    "adam_beta1 adam_epsilon betas eps momentum": "the optimiser's other settings are fixed; leave it out",
    "dropout label_smoothing_factor label_smoothing": "there is none; leave it out",
    "push_to_hub hub_model_id": "prompts are kept in the library; `softprompt push` puts one on the hub",
}

_MEANS = {foreign: ours for ours, names in _SAME.items() for foreign in names.split()}
_MEANS_IN_DATA = {foreign: ours for ours, names in _OF_DATA.items() for foreign in names.split()}
_WHY_NONE = {foreign: why for names, why in _NONE.items() for foreign in names.split()}


def unknown_key(name: str, known: Iterable[str], *, inside: str | None = None) -> str:
    """What is to be said of an unknown key of a task file: the key that is meant, or why there is none, or the nearest.

    Args:
        name: the key.
        known: keys that could stand there.
        inside: the block that it stands in, such as `data`.
    """
    known = set(known)
    low = name.lower().replace("-", "_")
    meant = {None: _MEANS, "data": _MEANS_IN_DATA}.get(inside, {}).get(low)
    if low in known:
        return f"; did you mean {low!r}?"
    if meant:
        return f"; here it is `{meant}`"
    if low in _WHY_NONE:
        return f"; {_WHY_NONE[low]}"
    return nearest(name, known)


def refusal(error: ValidationError, keys: Mapping[str | None, Sequence[str]], where: str) -> ConfigError:
    """Every fault that pydantic found in a file, of a task or another one with keys of ours, as one error."""
    lines = list(dict.fromkeys(told_fault(fault, keys) for fault in error.errors(include_url=False)))
    if len(lines) == 1:
        return ConfigError(f"{where}: {lines[0]}")
    told = " ".join(f"({number}) {line}" for number, line in enumerate(lines, start=1))
    return ConfigError(f"{where} has {len(lines)} faults: {told}")


def told_fault(fault: Any, keys: Mapping[str | None, Sequence[str]]) -> str:
    """A fault that pydantic found in a task file, in words; `keys` are those of the file and of each of its blocks."""
    path = [str(part) for part in fault["loc"]]
    name = ".".join(part for part in path if part not in ("str", "float", "int"))
    if fault["type"] == "extra_forbidden":
        known = keys.get(path[0] if len(path) > 1 else None, keys[None])
        return f"unknown key {name!r}{unknown_key(path[-1], known, inside=path[0] if len(path) > 1 else None)}"
    if fault["type"] == "missing":
        return f"{name} is missing; give it"
    message = fault["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    if not name:
        return str(message)
    if fault["type"] == "value_error":
        return f"{name}: {message}"
    given = fault["input"]
    if isinstance(given, dict) and given and not any(given.values()):
        message += '; a text with braces is put in double quotes of its own, "{text}"'
    return f"{name}: {message[0].lower()}{message[1:]}; the file says {short(given, 200)}"
