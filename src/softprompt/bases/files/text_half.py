"""The text half of a model of several senses: its text decoder and its head, as a causal model.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# Text decoders that are given three positions for each token, of which text has three equal ones: for text alone they
# compute what these do, from weights of the same names.
_ONE_POSITION = {
    "qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe",
}  # fmt: skip


@dataclass(frozen=True)
class TextHalf:
    """The part of a model of several senses that takes text alone: its text decoder and its head, as a causal model."""

    model_class: Any
    """Of transformers."""
    config: Any
    """Of that class."""
    whole: Any
    """The config of the whole model."""

    def reading(self) -> dict[str, Any]:
        """What is said to `from_pretrained` beside the folder: the weights' names there, less that of the half."""
        prefix = self.model_class.base_model_prefix
        inner = r"^(?:model\.)?(?:language_model|text_model)\."
        return {
            "config": self.config,
            "key_mapping": {rf"{inner}(?={prefix}\.|lm_head\.)": "", rf"{inner}(?!{prefix}\.|lm_head\.)": f"{prefix}."},
        }

    @torch.no_grad()
    def is_like_the_whole(self, model: Any) -> bool:
        """Whether the whole makes of three tokens what the half does: the whole without its weights, but for those of the
        decoder and the head, which it shares with the half."""
        import transformers

        one_position = self.whole.get_text_config().model_type in _ONE_POSITION
        if one_position and getattr(model, "is_quantized", False):
            return True  # packed weights do not fit its own decoder
        try:
            with torch.device("meta"):
                whole = transformers.AutoModelForMultimodalLM.from_config(
                    self.whole, attn_implementation=model.config._attn_implementation
                ).eval()
            decoder = whole.get_decoder()
            if one_position:
                decoder.load_state_dict(model.base_model.state_dict(), assign=True)
                decoder.rotary_emb = type(decoder.rotary_emb)(config=decoder.config)
            else:
                (place,) = (name for name, module in whole.named_modules() if module is decoder)
                whole.set_submodule(place, model.base_model)
            whole.set_output_embeddings(model.get_output_embeddings())
            embedding = model.get_input_embeddings()
            ids_BT = torch.tensor(
                [[len(embedding.weight) * share // 9 for share in (2, 4, 6)]], device=embedding.weight.device
            )
            more = {"inputs_embeds": embedding(ids_BT), "attention_mask": torch.ones_like(ids_BT), "use_cache": False}
            one, other = (part(**more).logits.float() for part in (model, whole))
        except Exception:  # one that cannot be run so is not known to be alike
            return False
        return bool((one - other).norm() <= 1e-3 * one.norm())


def text_half(config: Any) -> TextHalf | None:
    """The text half of a model of several senses; None of another, or where it has none that is a causal model."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING

    text = config.get_text_config()
    if text is config or type(config) not in MODEL_FOR_MULTIMODAL_LM_MAPPING:
        return None
    own = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if own is not None and own.config_class is type(text):
        return None  # transformers itself takes the half alone
    if getattr(text, "use_bidirectional_attention", None) in (True, "all"):
        return None  # which sees the whole input at once, as PaliGemma does
    if text.model_type in _ONE_POSITION:
        kind = _ONE_POSITION[text.model_type]
        fields = {key: value for key, value in text.to_dict().items() if key != "model_type"}
        text = CONFIG_MAPPING[kind](**fields)
        if kind == "qwen3_moe":
            text.norm_topk_prob = True  # which its config has no word for, as it always does so
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    text.tie_word_embeddings = getattr(config, "tie_word_embeddings", False)
    if (packed := getattr(config, "quantization_config", None)) is not None:
        text.quantization_config = packed
    return TextHalf(MODEL_FOR_CAUSAL_LM_MAPPING[type(text)], text, config)
