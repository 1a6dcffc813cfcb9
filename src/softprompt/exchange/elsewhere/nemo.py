"""NeMo 1's prompt learning: a `.nemo` archive (or its folder) of `model_config.yaml` and `model_weights.ckpt`, whose table
holds a matrix for each task.

The form is NeMo's `megatron_gpt_prompt_learning_model.py: state_dict` and `modules/common/prompt_table.py`.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from softprompt.errors import PromptFileError
from softprompt.exchange.elsewhere.pickles import load_tensors, matrix_in
from softprompt.exchange.elsewhere.taken import Taken
from softprompt.tasks.wording.template import literal

SUFFIX, CONFIG, WEIGHTS = ".nemo", "model_config.yaml", "model_weights.ckpt"
_MOST = 1 << 30
"""Bytes of a file in an archive: a table of prompts takes thousands of times less, and an archive can claim anything."""
_MATRIX = re.compile(r"^(?:.*\.)?prompt_table\.(.+)\.prompt_embeddings\.weight$")
_PLACE = re.compile(r"<\|VIRTUAL_PROMPT_(\d+)\|>")
_COLUMN = re.compile(r"\{([^{}]+)\}")


def read_nemo(source: Path, task: str) -> Taken:
    """The prompt of a task in a model of prompt learning: of the only one, or of the one that has the task's name.

    Raises:
        PromptFileError: it is none, is split over devices, holds no table of prompts, or several of which none has the name;
            its prompt stands at several places.
    """
    shown = repr(str(source))
    config, weights = _files(source, shown)
    state = load_tensors(io.BytesIO(weights), f"{WEIGHTS} of {shown}")
    found = dict(_matrices(state))
    if not found and any("prompt_encoder" in key for key in _keys(state)):
        raise PromptFileError(
            f"{shown} holds the encoder that makes a prompt, and not what it made, as checkpoints within a training do; "
            "save the model at its end"
        )
    if not found:
        raise PromptFileError(f"{shown} holds no table of prompts (prompt_table); give a model of NeMo's prompt learning")
    if len(found) > 1 and task not in found:
        raise PromptFileError(
            f"{shown} holds the prompts of {len(found)} tasks, {', '.join(map(repr, [*found][:5]))}; choose one by its "
            f"name: --task {next(iter(found))}"
        )
    name = task if task in found else next(iter(found))
    vectors_PD = matrix_in(found[name], f"the prompt {name!r} of {shown}")
    template = _template(config, name, shown)
    _check_length(template, vectors_PD, name, shown)
    return Taken(
        tool="nemo", vectors_PD=vectors_PD, task_type="CAUSAL_LM", fields=_form(template, name, shown),
        told={"nemo_task": name, **{key: str(config[key]) for key in ("language_model_path",) if config.get(key)}},
    )  # fmt: skip


def _files(source: Path, shown: str) -> tuple[Mapping[str, Any], bytes]:
    try:
        if source.is_dir():
            if not (source / WEIGHTS).is_file():
                raise _lacking(shown, sorted(path.name for path in source.iterdir()))
            text, weights = (source / CONFIG).read_bytes(), (source / WEIGHTS).read_bytes()
        else:
            text, weights = _out_of_archive(source, shown)
    except OSError as error:
        raise PromptFileError(f"{shown} cannot be read ({error.strerror or error}); mend that") from None
    try:
        config = yaml.safe_load(text.decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise PromptFileError(f"{CONFIG} of {shown} cannot be read ({type(error).__name__}); fetch it again") from None
    if not isinstance(config, dict):
        raise PromptFileError(f"{CONFIG} of {shown} is no config but {type(config).__name__}; fetch it again")
    return config, weights


def _out_of_archive(source: Path, shown: str) -> tuple[bytes, bytes]:
    read: dict[str, bytes] = {}
    names: list[str] = []
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                names.append(name)
                if name not in (CONFIG, WEIGHTS) or not member.isfile():
                    continue
                if member.size > _MOST:
                    raise PromptFileError(
                        f"{name} of {shown} is {member.size >> 20:,} MB, which no prompts are; give their model"
                    )
                held = archive.extractfile(member)
                assert held is not None
                read[name] = held.read(_MOST + 1)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise PromptFileError(
            f"{shown} is no archive of NeMo, or a damaged one ({type(error).__name__}); fetch it again"
        ) from None
    if CONFIG not in read or WEIGHTS not in read:
        raise _lacking(shown, names)
    return read[CONFIG], read[WEIGHTS]


def _lacking(shown: str, names: list[str]) -> PromptFileError:
    if any("mp_rank_" in name or "tp_rank_" in name for name in names):
        return PromptFileError(f"{shown} is split over devices (mp_rank_...); merge it in NeMo first, to one rank")
    listed = ", ".join(names[:3]) or "nothing"
    return PromptFileError(f"{shown} has not {CONFIG} and {WEIGHTS} but {listed}; give a model of NeMo's prompt learning")


def _matrices(state: Any) -> Iterator[tuple[str, Any]]:
    for key, value in _flat(state):
        if (match := _MATRIX.search(key)) is not None:
            yield match[1], value


def _keys(state: Any) -> list[str]:
    return [key for key, _ in _flat(state)]


def _flat(state: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Keys joined by dots: older versions nest the table, others do not."""
    for key, value in state.items() if isinstance(state, Mapping) else ():
        yield from _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else [(f"{before}{key}", value)]


def _template(config: Mapping[str, Any], name: str, shown: str) -> Mapping[str, Any]:
    listed = config.get("task_templates")
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and one.get("taskname") == name:
            return one
    raise PromptFileError(
        f"{CONFIG} of {shown} has no template for the task {name!r} (task_templates), without which nothing says where its "
        "prompt stands; fetch it again"
    )


def _check_length(template: Mapping[str, Any], vectors_PD: torch.Tensor, name: str, shown: str) -> None:
    said = template.get("total_virtual_tokens")
    if said not in (None, len(vectors_PD)):
        raise PromptFileError(
            f"{shown} says {said} virtual tokens for {name!r}, and its table holds {len(vectors_PD)}; fetch it again"
        )


def _form(template: Mapping[str, Any], name: str, shown: str) -> dict[str, Any]:
    """Templates of the input and of the target, out of NeMo's one, which ends with the answer."""
    text, answer = str(template.get("prompt_template") or ""), template.get("answer_field")
    places = _PLACE.findall(text)
    if len(places) != 1:
        raise PromptFileError(
            f"the prompt {name!r} of {shown} stands at {len(places)} places of its template {text[:80]!r}, and a prompt "
            "stands at one; it cannot be imported"
        )
    end = f"{{{answer}}}"
    if not answer or not text.endswith(end) or text.count(end) != 1:
        raise PromptFileError(
            f"the template of {name!r} in {shown}, {text[:80]!r}, does not end with its answer (answer_field {answer!r}), "
            "so that nothing says what is asked; it cannot be imported"
        )
    asked = text.removesuffix(end)
    gap = asked[len(asked.rstrip(" ")) :]
    before, _, behind = asked.removesuffix(gap).partition(f"<|VIRTUAL_PROMPT_{places[0]}|>")
    place = "{soft_prompt}" if before else ""
    return {"input": f"{_literals(before)}{place}{_literals(behind)}", "target": f"{gap}{{label}}"}


def _literals(text: str) -> str:
    """NeMo's template as ours: columns as they are, other braces doubled."""
    pieces = _COLUMN.split(text)
    return "".join(literal(piece) if at % 2 == 0 else f"{{{piece}}}" for at, piece in enumerate(pieces))
