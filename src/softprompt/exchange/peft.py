"""PEFT's folder: a config, a safetensors file with the matrix, and our card, which PEFT ignores.

A folder of elsewhere is taken whole or refused: whatever else PEFT would load with the matrix (a head, embeddings, another
method) would be missing from what we answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.adapter import CONFIG, WEIGHTS
from softprompt.errors import ConfigError, PromptFileError
from softprompt.exchange.card_file import CARD, CENTROID, read_card_file
from softprompt.exchange.peft_config import TASKS, check_shape, config_of, provenance_of, read_peft_config
from softprompt.exchange.peft_head import head_in, head_out, names_of_labels
from softprompt.exchange.peft_matrix import MARK, TENSOR, mark_of, read_centroid, read_mark, read_matrix
from softprompt.exchange.readme import readme_of
from softprompt.files import write_whole
from softprompt.model.architecture import architecture_of
from softprompt.model.prefix import layout_for
from softprompt.prompts.card import TEMPERATURE, Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.form import Form, text_rules
from softprompt.tasks.wording.template import Template

README = "README.md"


def save_peft(prompt: SoftPrompt, folder: str | Path, base_source: str, revision: str | None = None) -> Path:
    """Write a prompt as a PEFT adapter: `PeftModel.from_pretrained(model, folder)` loads it.

    The card and the centroid go along in files of their own, which PEFT ignores and :func:`load_peft` reads; and what to
    feed it in one for people. Each file is written whole, the config last: a folder without it is no adapter.

    Raises:
        ConfigError: the prompt is placed, or an ensemble, which PEFT cannot say.
        PromptFileError: PEFT has no prompts for its task type, would not run it, or its head, as it was tuned, or it is a
            prefix for layers of several shapes, of which PEFT keeps one alone.
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

    prompt.check_single("PEFT has no file for")
    kind = prompt.card.task_type
    if kind not in TASKS:
        raise PromptFileError(
            f"the prompt of {prompt.card.task!r} is for {kind}, which PEFT has no prompts for; use --format softprompt"
        )
    _check_scale(prompt.card.recipe, prompt.card.base)
    if Template(prompt.card.input).around_prompt is not None:
        raise ConfigError(
            f"the prompt of task {prompt.card.task!r} stands at {{soft_prompt}} in {prompt.card.input[:60]!r}, and PEFT "
            "puts prompts before everything; export it with --format softprompt, or train one without {soft_prompt}"
        )
    tensors, modules = head_out(prompt)
    config = config_of(prompt.card, base_source, revision) | modules
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    mark = {"format": "pt", MARK: mark_of(prompt.card)}
    write_whole(target / WEIGHTS, save({TENSOR: prompt.vectors_PD.contiguous(), **tensors}, metadata=mark))
    if prompt.centroid_D is not None:
        write_whole(target / CENTROID, save({"centroid": prompt.centroid_D.contiguous()}))
    write_whole(target / CARD, f"{prompt.card.canonical()}\n".encode())
    write_whole(target / README, readme_of(prompt.card, base_source).encode())
    write_whole(target / CONFIG, f"{json.dumps(config, indent=2)}\n".encode())
    return target


def load_peft(folder: str | Path, *, task: str, base: FrozenBase, warn: Callable[[str], object] | None = None) -> SoftPrompt:
    """Read an adapter of PEFT's prompt tuning, P-tuning or prefix tuning as a prompt of `task` on `base`. Its template,
    labels and metric are those exported with it, else defaults; its scores are, unless its vectors were saved anew since.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        task: name of the task it becomes.
        base: the base it was tuned on; PEFT's format does not say which exact one, so the caller vouches for it.
        warn: hears of what nothing proves, such as a base by another name than the adapter's.

    Raises:
        PromptFileError: not there, of another method or task, not of this base's shape, or more than a prompt.
        BaseModelError: a prefix, which the base does not take.
        FingerprintMismatch: exported by softprompt for another base, or tuned at another revision of it.
    """
    config = read_peft_config(folder)
    kind = config.get("task_type")
    if kind is not None and kind != base.task_type:
        raise PromptFileError(
            f"the adapter in {str(folder)!r} is for {kind}, and {base.name} is {base.task_type}; "
            "give the base that it is for"
        )
    _check_scale(text_rules(base), base.name)
    file, head = Path(folder) / WEIGHTS, architecture_of(base).head
    vectors_PD, beside = read_matrix(file, beside=head is not None)
    classifier = head_in(beside, base, head, file) if head is not None else None
    if kind == "SEQ_2_SEQ_LM" and config.get("num_transformer_submodules") in (None, 2):
        vectors_PD = _of_the_encoder(config, vectors_PD)
    prefix = config["peft_type"].upper() == "PREFIX_TUNING"
    layout = layout_for(base, architecture_of(base).layout) if prefix else None
    check_shape(config, vectors_PD, base, layout, folder)
    length, width = vectors_PD.shape
    here: dict[str, Any] = {
        "prompt_type": "soft" if layout is None else "prefix",
        "layers": layout and layout.layers,
        "task": task,
        "base": base.name,
        "fingerprint": base.fingerprint,
        "num_virtual_tokens": length,
        "token_dim": width,
        "dtype": "float32",
        "task_type": base.task_type,
    }
    exported = Path(folder) / CARD
    if exported.is_file():
        own = read_card_file(exported)
        if own.fingerprint not in base.fingerprints:
            SoftPrompt(vectors_PD, own, classifier=classifier).check_base(base)
        if read_mark(file) != mark_of(own):
            own = _without_scores(own)
            if warn is not None:
                warn(
                    f"the vectors in {str(folder)!r} are not those that were exported with {CARD}: another tool has saved "
                    "them since; they are taken without the scores there: judge them anew (`softprompt evaluate`)"
                )
        return SoftPrompt(vectors_PD, own.changed(here), read_centroid(Path(folder) / CENTROID), classifier)
    told = provenance_of(config, base, folder, warn or (lambda message: None))
    recipe = {"imported": "peft", **told, **text_rules(base)}
    if head is not None and classifier is not None:
        here |= {"labels": names_of_labels(base, len(classifier.bias_C))}
        recipe |= {"pooling": head.pooling}
    return SoftPrompt(vectors_PD, Card.model_validate({**here, "recipe": recipe}), classifier=classifier)


def check_fits(prompt: SoftPrompt, base: FrozenBase) -> None:
    """Do nothing for a prompt that can answer on a base, as every trained one can.

    Raises:
        ContextError: beside its vectors and its longest answer no input fits the context.
        ConfigError: its template is wrong.
        DataError: two of its labels have the same tokens, or one has none.
    """
    form = Form.of_card(prompt.card)
    form.encode_inputs(base, [dict.fromkeys(form.input.fields, "a")], len(prompt.vectors_PD))


def _without_scores(card: Card) -> Card:
    """A card as it is of other vectors: the same question, and nothing of how well the old ones answer it."""
    recipe = {name: value for name, value in card.recipe.items() if name != TEMPERATURE}
    return card.model_copy(update={"metrics": {}, "recipe": recipe, "parents": (), "data_digest": None})


def _of_the_encoder(config: Mapping[str, Any], vectors_PD: torch.Tensor) -> torch.Tensor:
    """The vectors that stand before an encoder's input: PEFT makes as many again for the decoder, and never uses them."""
    length = config.get("num_virtual_tokens")
    return vectors_PD[:length].clone() if isinstance(length, int) and len(vectors_PD) == 2 * length else vectors_PD


def _check_scale(rules: Mapping[str, Any], base: str) -> None:
    """Refuse a base on which PEFT runs inputs otherwise than without a prompt. Raises `PromptFileError`."""
    if scale := rules.get("embedding_scale"):
        raise PromptFileError(
            f"{base} multiplies the embeddings of its inputs by {scale:g} outside of their table, which PEFT leaves out "
            "behind a prompt, so that answers there are others; it goes neither to PEFT nor comes from there"
        )
