"""The head that stands beside a prompt in a PEFT adapter for sequence classification: written, and read.

PEFT saves the whole of a model's last module, and gives it what the model's own layers make of the first virtual token. So
heads go out and come in on bases whose last module is one linear layer, pooled so: those of BERT's kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.bases.head import Head
from softprompt.errors import PromptFileError
from softprompt.prompts.prompt import Classifier, SoftPrompt

MODULES = ("classifier", "score")
"""What PEFT calls last modules, and saves without being asked to."""


def head_out(prompt: SoftPrompt) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a prompt's head, and the keys of the config that say so; none of a prompt without a head.

    Raises:
        PromptFileError: PEFT would give the head something else than it was trained on.
    """
    if prompt.classifier is None:
        return {}, {}
    card, pooling = prompt.card, prompt.card.recipe.get("pooling")
    shown = f"the prompt of task {card.task!r}"
    if pooling not in MODULES:
        given = (
            "the mean over the input" if pooling == "mean" else f"what stands before {pooling!r}, a part of its last module"
        )
        raise PromptFileError(
            f"{shown} has a head that is given {given}, and PEFT's is given what a model of BERT's kind makes of the first "
            "virtual token; use --format softprompt"
        )
    if card.num_labels != len(card.labels or ()):
        raise PromptFileError(
            f"{shown} has two outputs for each label of a set, and PEFT's has one; use --format softprompt"
        )
    weight_CF, bias_C = prompt.classifier
    tensors = {f"base_model.{pooling}.weight": weight_CF.contiguous(), f"base_model.{pooling}.bias": bias_C.contiguous()}
    return tensors, {"modules_to_save": [*MODULES]}


def head_in(tensors: Mapping[str, Tensor], base: FrozenBase, head: Head, file: Path) -> Classifier:
    """The head among the tensors of an adapter, for a base.

    Raises:
        PromptFileError: the base has no such place for one, or they are more or less than one linear layer.
    """
    if head.pooling not in MODULES:
        why = "takes the mean over an input" if head.pooling == "mean" else f"has more than one layer in {head.pooling!r}"
        raise PromptFileError(
            f"{str(file)!r} holds a head for what a model of BERT's kind makes of the first virtual token, and {base.name} "
            f"({base.architecture}) {why}; give a base of the kind ...ForSequenceClassification whose last module is one "
            "linear layer"
        )
    names = [f"base_model.{head.pooling}.{part}" for part in ("weight", "bias")]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    labels = len(tensors[names[1]]) if names[1] in tensors and tensors[names[1]].ndim == 1 else 0
    if not labels or shapes != dict(zip(names, [(labels, head.features), (labels,)], strict=True)):
        found = ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "nothing"
        raise PromptFileError(
            f"{str(file)!r} holds {found[:200]} beside the prompt, and a head on {base.name} is {names[0]} (labels x "
            f"{head.features}) and {names[1]}; save the adapter again, or give the base it was tuned on"
        )
    weight_CF, bias_C = (tensors[name].float() for name in names)
    return Classifier(weight_CF, bias_C)


def names_of_labels(base: FrozenBase, count: int) -> tuple[str, ...]:
    """What the outputs of a head are called where nobody has said: as the base's config does, where it has as many."""
    named = getattr(base.model.config, "id2label", None) or {}
    labels = tuple(str(named[place]) for place in sorted(named))
    return labels if len(labels) == count else tuple(f"LABEL_{place}" for place in range(count))
