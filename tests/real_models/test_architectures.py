"""Every architecture of the installed transformers that a tiny config can make, with the path that it takes or why it is
refused. Told by running, never by name: a mixed batch is each row alone on all that are let in. It takes minutes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.kinds.causal import Causal
from softprompt.model.kinds.deep import DeepEncoder
from softprompt.model.kinds.encoder import MaskedEncoder
from softprompt.model.kinds.encoder_decoder import EncoderDecoder
from softprompt.model.kinds.headed_encoder import HeadedEncoder
from softprompt.model.splice import stack_prompts
from tests.models import make_masked, tokenizer

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]

MOST = 3_000_000
"""Weights of a model that its tiny config has made tiny."""

_WIDE = ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim", "d_embed")
_DEEP = (
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_decoder_layers",
    "num_encoder_layers", "num_blocks",
)  # fmt: skip
_HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
    "num_encoder_attention_heads", "num_decoder_attention_heads",
)  # fmt: skip
_INNER = (
    "intermediate_size", "ffn_dim", "d_ff", "n_inner", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_inner",
    "ffn_hidden_size",
)  # fmt: skip
_LONG = (
    "max_position_embeddings", "n_positions", "max_encoder_position_embeddings", "max_decoder_position_embeddings",
)  # fmt: skip
SIZES = {
    "vocab_size": 330, **dict.fromkeys(_WIDE, 32), **dict.fromkeys(_DEEP, 2), **dict.fromkeys(_HEADS, 4),
    **dict.fromkeys(_INNER, 48), **dict.fromkeys(_LONG, 96), "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "state_size": 4,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "attention_window": 8, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 0,
}  # fmt: skip


def made(loader: Any, kinds: dict[str, Any], **more: Any) -> Iterator[tuple[str, Any]]:
    """A tiny random model of each kind that a tiny config makes, and that runs by itself."""
    for kind in kinds:
        try:
            own = CONFIG_MAPPING[kind]
            config = own(**{key: value for key, value in SIZES.items() if key in own().to_dict()})
            for key, value in more.items():
                setattr(config, key, value)
            config._attn_implementation = "eager"
            with torch.device("meta"):
                if sum(one.numel() for one in loader.from_config(config).parameters()) > MOST:
                    continue
            torch.manual_seed(0)
            model = loader.from_config(config).eval()
            ids_BT = torch.tensor([[5, 9, 31, 77, 80]])
            decoded = {"decoder_input_ids": ids_BT} if getattr(config, "is_encoder_decoder", False) else {}
            model(input_ids=ids_BT, **decoded)
        except Exception:  # no tiny config for it, or one that does not fit together
            continue
        yield kind, model


@torch.no_grad()
def assert_exact(each: Architecture, kind: str) -> None:
    assert_rows_alone(each, kind, each.base.width)
    if isinstance(each, DeepEncoder) and each.layout is not None:
        assert_rows_alone(each, kind, each.layout.width)


def assert_rows_alone(each: Architecture, kind: str, width: int) -> None:
    """A mixed batch behind prompts of such a width is each row alone."""
    base, generator = each.base, torch.Generator().manual_seed(1)
    prompts = [torch.randn(count, width, generator=generator) * base.spread for count in (9, 0, 4)]
    rows, tails = [[5, 9, 31, 77, 80, 90, 44], [200], [7, 8, 120, 44, 60]], [[[3, 4]], [[]], [[10, 11, 12]]]
    if each.head is not None:  # whose numbers stand behind the vectors, and which answers for 3 labels and for 2
        rows, tails = rows[:2], [[()] * 3, [()] * 2]
        more = [torch.randn(each.head.on(width).rows(len(own)), width, generator=generator) for own in tails]
        prompts = [torch.cat(pair) for pair in zip(prompts, more, strict=False)]
    stack = stack_prompts(prompts)
    prefix = each.compute_prefix(stack) if each.shares_prefix else None
    which = range(len(rows))
    mixed = each.logits_behind(stack, prefix, which, rows, tails)
    alone = [each.logits_behind(stack_prompts([prompts[k]]), None, [0], [rows[k]], [tails[k]]) for k in which]
    if each.head is not None:
        mixed = mixed.nan_to_num(neginf=0)
        alone = [torch.nn.functional.pad(one, (0, mixed.shape[1] - one.shape[1])) for one in alone]
    assert (mixed - torch.cat(alone)).norm() <= 1e-4 * mixed.norm(), kind


def path_of(model: Any, words: Any, kind: str) -> Architecture | str:
    """What runs a model, exact as it must be; or the error that refuses it."""
    try:
        each = architecture_of(FrozenBase.wrap(model, words))
    except BaseModelError as error:
        return str(error)
    assert_exact(each, kind)
    return each


LOOKS_AHEAD = {
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
    "roberta", "roberta-prelayernorm", "roformer", "xlm", "xlm-roberta", "xlm-roberta-xl",
}  # fmt: skip
"""Kinds of encoders that transformers can make a decoder of, whose config says nothing of it."""
UNSHARED = {
    "bailing_hybrid", "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "ctrl", "falcon_h1", "falcon_mamba",
    "hy_v4", "inkling2_text", "inkling_text", "jamba", "lfm3", "mamba", "marian", "mbart", "minimax", "mvp", "nemotron_h",
    "olmo_hybrid", "openai-gpt", "pegasus", "plbart", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp_text",
    "recurrent_gemma", "rwkv", "trocr", "xlstm",
}  # fmt: skip
"""State-space models, hybrids, and decoders that count positions themselves: rows are run with their whole prompts."""


def test_causal_models() -> None:
    models = made(transformers.AutoModelForCausalLM, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    found = {kind: path_of(model, tokenizer(), kind) for kind, model in models}
    refusals = {
        **dict.fromkeys(LOOKS_AHEAD & found.keys(), "what it makes of a token changes with the tokens behind it"),
        **dict.fromkeys(("cpmant", "deepseek_v4", "prophetnet", "xlnet"), "cannot be run behind vectors"),
    }
    refused = {kind for kind, path in found.items() if isinstance(path, str)}
    assert refused == refusals.keys()
    assert all(words in str(found[kind]) for kind, words in refusals.items())
    assert len(found) - len(refused) > 90
    run = {kind: path for kind, path in found.items() if isinstance(path, Causal)}
    assert run.keys() == found.keys() - refused
    assert {kind for kind, path in run.items() if not path.shares_prefix} == UNSHARED & run.keys()


MIXTURES = "has no attribute 'router_logits'"


def test_encoder_decoders() -> None:
    kinds = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    models = made(transformers.AutoModelForSeq2SeqLM, kinds, decoder_start_token_id=1)
    found = {kind: path_of(model, tokenizer(), kind) for kind, model in models}
    refusals = {
        "nllb-moe": MIXTURES, "switch_transformers": MIXTURES,
        "prophetnet": "what its decoder makes of a token changes with how many follow",
    }  # fmt: skip
    assert {kind for kind, path in found.items() if isinstance(path, str)} == refusals.keys()
    assert all(words in str(found.pop(kind)) for kind, words in refusals.items())
    assert all(type(path) is EncoderDecoder for path in found.values())
    assert found.keys() == {
        "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "led", "longt5", "m2m_100", "marian", "mbart", "mt5",
        "mvp", "pegasus", "pegasus_x", "plbart", "seamless_m4t", "seamless_m4t_v2", "t5", "umt5",
    }  # fmt: skip
    anew = {kind for kind, path in found.items() if isinstance(path, EncoderDecoder) and not path.keeps_answers}
    assert anew == {"m2m_100", "seamless_m4t", "seamless_m4t_v2"}  # whose decoders count positions by ids


DEEP = {
    "bert", "camembert", "data2vec-text", "electra", "ernie", "roberta", "roberta-prelayernorm", "roformer", "xlm-roberta",
    "xlm-roberta-xl",
}  # fmt: skip
"""Encoders that take prefixes whatever answers."""


def test_masked_language_models() -> None:
    models = made(transformers.AutoModelForMaskedLM, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, decoder_start_token_id=1)
    words = make_masked("roberta").tokenizer
    found = {kind: path_of(model, words, kind) for kind, model in models}
    padding, ahead = "what it makes of a row changes with the padding behind it", "no causal language model"
    refusals = {
        "convbert": padding, "fnet": padding, "funnel": padding, "mobilebert": padding, "nystromformer": padding,
        "yoso": padding, "esm": "it makes something else of tokens than of their embeddings", "flaubert": ahead,
        "xlm": ahead, "ibert": "cannot be run behind vectors",
    }  # fmt: skip
    assert {kind for kind, path in found.items() if isinstance(path, str)} == refusals.keys()
    assert all(words in str(found.pop(kind)) for kind, words in refusals.items())
    assert {kind for kind, path in found.items() if type(path) is EncoderDecoder} == {"bart", "mbart", "mvp"}
    assert {kind for kind, path in found.items() if type(path) is MaskedEncoder} == {
        "albert", "bert", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
        "ernie", "eurobert", "gte", "jina_embeddings_v3", "layoutlm", "longformer", "megatron-bert", "modernbert", "mpnet",
        "mra", "nomic_bert", "rembert", "roberta", "roberta-prelayernorm", "roformer", "squeezebert", "tapas", "ultrabert",
        "xlm-roberta", "xlm-roberta-xl",
    }  # fmt: skip
    deep = {kind for kind, path in found.items() if isinstance(path, MaskedEncoder) and path.layout is not None}
    assert deep == DEEP | {"eurobert"}


HEADED = {
    "albert", "bert", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "megatron-bert", "modernbert", "mpnet", "nomic_bert", "rembert", "roberta", "roberta-prelayernorm", "roformer",
    "squeezebert", "xlm-roberta", "xlm-roberta-xl",
}  # fmt: skip
"""Encoders that answer through a head whether one was left out or is there."""


def test_encoders_without_a_head() -> None:
    kinds = {kind: name for kind, name in auto.MODEL_MAPPING_NAMES.items() if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    words = make_masked("roberta").tokenizer
    found = {kind: path_of(model, words, kind) for kind, model in made(transformers.AutoModel, kinds)}
    headed = {kind: path for kind, path in found.items() if isinstance(path, HeadedEncoder)}
    assert headed.keys() == HEADED | {"eurobert", "gte", "jina_embeddings_v3", "longformer", "mra"}
    assert {path.head.pooling for path in headed.values()} == {"mean"}
    assert {kind for kind, path in headed.items() if path.layout is not None} == DEEP | {
        "eurobert",
        "megatron-bert",
        "rembert",
    }
    assert all(isinstance(path, str) for kind, path in found.items() if kind not in headed)


def test_sequence_classifiers() -> None:
    kinds, words = auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, make_masked("roberta").tokenizer
    models = made(transformers.AutoModelForSequenceClassification, kinds)
    found = {kind: path_of(model, words, kind) for kind, model in models}
    headed = {kind: path for kind, path in found.items() if isinstance(path, HeadedEncoder)}
    assert headed.keys() == HEADED | {
        "flaubert", "gte", "jina_embeddings_v3", "layoutlm", "markuplm", "mra", "tapas",
        "ultrabert", "xlm",
    }  # fmt: skip
    assert {kind for kind, path in headed.items() if path.layout is not None} == DEEP
    padding, last = "what it makes of a row changes with the padding behind it", "no linear layer makes its answers"
    refusals = {
        "canine": "has no table of input embeddings", "esm": "it makes something else of tokens than of their embeddings",
        "convbert": padding, "mobilebert": padding,
        "fnet": padding, "funnel": padding, "ibert": "cannot be run behind vectors", "nystromformer": padding,
        "longformer": "cannot be run behind vectors", "xlnet": padding, "yoso": padding,
    }  # fmt: skip
    refused = {kind: str(path) for kind, path in found.items() if isinstance(path, str)}
    assert all(
        refusals.get(kind, last) in why for kind, why in refused.items()
    )  # decoders, which answer at their last token
    assert {"eurobert", "gpt2", "llama", "qwen3"} <= refused.keys() - refusals.keys()
