"""What a loaded model does, as made-up tokens show it: whether it looks ahead, answers with numbers, and takes vectors.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from softprompt.bases.architectures import ENCODERS, OTHER, is_headless, task_type_of_model
from softprompt.bases.spelling import Spelling
from softprompt.errors import BaseModelError, reason_of

_log = logging.getLogger(__name__)


def check_behaviour(model: Any, source: str) -> None:
    """Refuse a model that does not do what its kind is run by.

    Raises:
        BaseModelError: it does not, or answers nothing but NaN.
    """
    task_type = task_type_of_model(model)
    if task_type == "SEQ_2_SEQ_LM":
        check_encoder_decoder(model, source)
    elif task_type in ENCODERS:
        check_encoder(model, source)
    else:
        check_causal(model, source)


def embedding_scale(model: Any) -> float:
    """What a model multiplies its input embeddings by outside of their table, as some encoders do with token ids and not
    with vectors that they are given."""
    if not getattr(model.config, "is_encoder_decoder", False) or hasattr(model.get_input_embeddings(), "embed_scale"):
        return 1.0
    return float(getattr(model.get_encoder(), "embed_scale", None) or 1.0)


@torch.no_grad()
def check_encoder_decoder(model: Any, source: str) -> None:
    """Refuse an encoder that makes something else of tokens than of their embeddings, or of a row beside a longer one; a
    decoder that looks ahead; and a model without a token that its decoder begins with.

    Raises:
        BaseModelError: with which of them it is.
    """
    if getattr(model.config, "decoder_start_token_id", None) is None:
        raise BaseModelError(
            f"the config of {source!r} names no decoder_start_token_id, which the decoder begins its answers with; write it "
            "into its config.json"
        )
    ids_BT, mask_BT, embeds_BTD, short = _rows(model)
    with _run(model, source):
        encoder, embeds_BTD = model.get_encoder(), embeds_BTD * embedding_scale(model)
        told_BTD = encoder(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        given_BTD = encoder(inputs_embeds=embeds_BTD, attention_mask=mask_BT).last_hidden_state
        alone_BTD = encoder(inputs_embeds=embeds_BTD[1:, :short], attention_mask=mask_BT[1:, :short]).last_hidden_state
        decoded_BT = ids_BT.clone()
        decoded_BT[1, -1] = ids_BT[0, 0]
        behind = {"encoder_outputs": BaseModelOutput(given_BTD[:1].expand(2, -1, -1)), "use_cache": False}
        logits_BTV = model(**behind, decoder_input_ids=decoded_BT).logits
        short_BTV = model(**behind, decoder_input_ids=decoded_BT[:, :short]).logits
    _check_numbers(embeds_BTD, logits_BTV, source)
    for one, two, what in (
        (told_BTD[0], given_BTD[0], "its encoder makes something else of tokens than of their embeddings"),
        (given_BTD[1, :short], alone_BTD[0], "what its encoder makes of a row changes with the padding behind it"),
        (logits_BTV[0, :-1], logits_BTV[1, :-1], "its decoder looks ahead"),
        (logits_BTV[0, :short], short_BTV[0], "what its decoder makes of a token changes with how many follow"),
    ):
        if not _near(one, two):
            raise _no_base(model, source, what)


def _rows(model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Two equal rows of a dozen tokens, of which the second one is padding from the eighth on: ids, mask, what the table of
    embeddings has for them, and where the padding begins."""
    table = model.get_input_embeddings()
    size, short = table.weight.shape[0], 7
    ids_BT = torch.tensor([[size * share // 14 for share in range(1, 13)]] * 2, device=table.weight.device)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, short:] = 0
    return ids_BT, mask_BT, table(ids_BT), short


@torch.no_grad()
def check_encoder(model: Any, source: str) -> None:
    """Refuse an encoder that makes something else of tokens than of their embeddings, or of a row beside a longer one; and a
    sequence classifier in whose place for a head no other can stand.

    Raises:
        BaseModelError: with which of them it is.
    """
    ids_BT, mask_BT, embeds_BTD, short = _rows(model)
    classifies = task_type_of_model(model) == "SEQ_CLS"
    layer = answering_layer(model) if classifies else None
    if classifies and layer is None and not is_headless_model(model):
        raise _no_base(model, source, "no linear layer makes its answers, in whose place a head could stand")

    def run(**given: torch.Tensor) -> torch.Tensor:
        if layer is not None:
            return features_before(model, layer[1], **given)
        made = model(**given)
        states: torch.Tensor = made.last_hidden_state if classifies else made.logits
        return states

    with _run(model, source):
        told_BTV = run(input_ids=ids_BT, attention_mask=mask_BT)
        given_BTV = run(inputs_embeds=embeds_BTD, attention_mask=mask_BT)
        alone_BTV = run(inputs_embeds=embeds_BTD[1:, :short], attention_mask=mask_BT[1:, :short])
    _check_numbers(embeds_BTD, told_BTV, source)
    if layer is not None:  # whose one column may hide what padding does to the others
        with _run(model, source):
            whole_BSD = model.base_model(inputs_embeds=embeds_BTD, attention_mask=mask_BT).last_hidden_state[1:, :short]
            short_BSD = model.base_model(
                inputs_embeds=embeds_BTD[1:, :short], attention_mask=mask_BT[1:, :short]
            ).last_hidden_state
        if whole_BSD.shape != short_BSD.shape or not _near(whole_BSD, short_BSD):
            raise _no_base(model, source, "what it makes of a row changes with the padding behind it")
    for one, two, what in (
        (told_BTV[0], given_BTV[0], "it makes something else of tokens than of their embeddings"),
        (given_BTV[1][: len(alone_BTV[0])], alone_BTV[0], "what it makes of a row changes with the padding behind it"),
    ):
        if not _near(one, two):
            raise _no_base(model, source, what)


def is_headless_model(model: Any) -> bool:
    """See :func:`~softprompt.bases.architectures.is_headless`."""
    return is_headless({**model.config.to_dict(), "architectures": [type(model).__name__]})


@torch.no_grad()
def answering_layer(model: Any) -> tuple[str, Any] | None:
    """The last layer of a sequence classifier, whose outputs are its answers, and its name: in its place stands a head that
    is trained. None where there is no such layer, or it is given more than one row of numbers for an input."""
    ids_BT, mask_BT, _, _ = _rows(model)
    answers: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[Any, Any, Any], None]:
        return lambda module, given, output: answers.update({name: output} if isinstance(output, torch.Tensor) else {})

    inner = f"{model.base_model_prefix}."
    outer = {name: part for name, part in model.named_modules() if name and not name.startswith(inner)}
    hooks = [
        part.register_forward_hook(keep(name)) for name, part in outer.items() if getattr(part, "weight", None) is not None
    ]
    try:
        logits_BC = getattr(model(input_ids=ids_BT, attention_mask=mask_BT), "logits", None)
    except Exception:  # which is told when it is run behind vectors
        return None
    finally:
        for hook in hooks:
            hook.remove()
    if logits_BC is None:
        return None
    alike = [name for name, output in answers.items() if output.shape == logits_BC.shape]
    found = [name for name in alike if torch.allclose(answers[name], logits_BC, equal_nan=True)]
    return (found[-1], outer[found[-1]]) if found else None


def features_before(model: Any, layer: Any, **given: torch.Tensor) -> torch.Tensor:
    """What a layer of a model is given, B x F."""
    kept: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    try:
        model(**given)
    finally:
        hook.remove()
    return kept[-1]


def first_position(model: Any) -> int:
    """Where an encoder's table of positions begins to be used: RoBERTa leaves the rows up to that of padding out."""
    tables = (part for name, part in model.named_modules() if name.endswith("position_embeddings"))
    found = next((table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None), None)
    return 0 if found is None else int(found) + 1


def _near(one: torch.Tensor, two: torch.Tensor) -> bool:
    tolerance = 1e-4 if one.dtype == torch.float32 else 6e-2
    return bool((one.float() - two.float()).norm() <= tolerance * one.float().norm().clamp_min(1e-6))


@contextlib.contextmanager
def _run(model: Any, source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # models say in a hundred ways that they take no vectors
        raise _no_base(model, source, reason_of(error)) from None


def _no_base(model: Any, source: str, why: str) -> BaseModelError:
    return BaseModelError(f"{source!r} ({type(model).__name__}) cannot be run behind vectors: {why}; {OTHER}")


def _check_numbers(embeds_BTD: torch.Tensor, logits_BTV: torch.Tensor, source: str) -> None:
    if embeds_BTD.isfinite().all() and not logits_BTV.isfinite().any():
        raise BaseModelError(
            f"{source!r} cannot answer: it makes NaN or infinity of any tokens, so weights that are used hold such, or its "
            f"dtype, {str(logits_BTV.dtype)[6:]}, is too small for it; fetch it again, or give another --dtype"
        )


@torch.no_grad()
def check_causal(model: Any, source: str) -> None:
    """Refuse a model that takes no vectors, one whose states of a token change with the tokens behind it, and one that
    answers nothing but NaN.

    Raises:
        BaseModelError: it does.
    """
    table = model.get_input_embeddings()
    size, device = table.weight.shape[0], table.weight.device
    first, second, last, other = (size * share // 9 for share in (2, 4, 6, 8))
    ids_BT = torch.tensor([[first, second, last], [first, second, last], [first, second, other]], device=device)
    positions_BT = torch.arange(ids_BT.shape[1], device=device).expand_as(ids_BT)
    with _run(model, source):
        embeds_BTD, mask_BT = table(ids_BT), torch.ones_like(ids_BT, dtype=torch.bool)
        logits_BTV = model(
            inputs_embeds=embeds_BTD, attention_mask=mask_BT, position_ids=positions_BT, use_cache=False
        ).logits[: len(ids_BT), : ids_BT.shape[1]]
    _check_numbers(embeds_BTD, logits_BTV, source)
    if _differs(model, logits_BTV):
        raise BaseModelError(
            f"{source!r} is no causal language model: loaded as {type(model).__name__}, what it makes of a token changes "
            f"with the tokens behind it, as in an encoder (BERT and its kind); {OTHER}"
        )


def _differs(model: Any, logits_BTV: torch.Tensor) -> bool:
    """Whether logits at the first tokens change with the last one: of three rows, two the same, whose difference is
    rounding, and one with another last token."""
    one, same, changed = logits_BTV[:, :2].float().unbind(0)
    scale = one.norm().clamp_min(1e-6)
    rounding, effect = (one - same).norm() / scale, (one - changed).norm() / scale
    if getattr(model.config, "is_decoder", None) is False:  # of a kind that can be either, and set to be an encoder
        least = 1e-5
    else:  # experts may be given other tiles of rows with the other token, which rounds otherwise
        least = 1e-4 if logits_BTV.dtype == torch.float32 else 1e-2
    return bool(effect > torch.maximum(10 * rounding, torch.tensor(least, device=scale.device)))


def check_vocabulary(model: Any, spelling: Spelling, name: str) -> None:
    """Say what texts a base cannot read.

    Raises:
        BaseModelError: it could not answer any.
    """
    table = model.get_input_embeddings()
    rows = len(table.weight)
    if spelling.beyond > max(1000, rows // 10):  # more than tokens that were added
        raise BaseModelError(
            f"the tokenizer of {name} is of another model: it has {spelling.beyond:,} tokens more than the embedding has "
            f"rows ({rows:,}); put the model's own tokenizer beside it"
        )
    if spelling.beyond:
        _log.warning(
            "the tokenizer of %s has %d token%s more than its embedding has rows (%d); a text that takes one is refused",
            name, spelling.beyond, "s" * (spelling.beyond > 1), rows,
        )  # fmt: skip
    if not spelling.unusable:
        return
    head = model.get_output_embeddings()
    if head is not None and head.weight is table.weight:
        raise BaseModelError(
            f"{name} cannot answer: row {min(spelling.unusable)} of its embedding, which is its head too, holds NaN or "
            "infinity; fetch or save it again"
        )
    _log.warning(
        "%d of %d rows of the embedding of %s hold NaN or infinity; a text that takes one is refused",
        len(spelling.unusable), rows, name,
    )  # fmt: skip
