"""Pretrains the built-in base within a budget of wall-clock minutes; a killed run goes on where its last checkpoint was.

    python recipes/pretrain.py --minutes 78

Everything in fp32, `sdpa` inside `torch.compile`: on the CPU this was made on (AVX-512 with bf16, no AMX) fp32 matrix
products ran 1.5 times as fast as bf16 ones and whole steps twice as fast. Logits are made only for the tokens with the
largest loss weights.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from run import Batch, Recipe, Stream, arguments, choose, pretrain
from transformers import LlamaConfig, LlamaForCausalLM

WORK = Path(__file__).resolve().parent / "work"
CHECKPOINT = WORK / "checkpoint.pt"
CONFIG: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "attention_bias": False,
    "mlp_bias": False,
}


def new_model(seed: int = 0) -> LlamaForCausalLM:
    """The model, freshly initialised; projections into the residual stream start smaller."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **CONFIG, attn_implementation="sdpa", rope_parameters={"rope_type": "default", "rope_theta": 10000.0}
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(1 / math.sqrt(2 * config.num_hidden_layers))
    return model


def weighted_loss(
    model: LlamaForCausalLM,
    ids_BT: torch.Tensor,
    chosen_K: torch.Tensor,
    targets_K: torch.Tensor,
    weights_K: torch.Tensor,
) -> torch.Tensor:
    """Sum over the chosen positions (of the flattened batch) of weight times cross-entropy."""
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    logits_KV = F.linear(hidden_BTD.flatten(0, 1)[chosen_K], model.lm_head.weight)
    return (F.cross_entropy(logits_KV, targets_K, reduction="none") * weights_K).sum()


def next_tokens(stream: Stream, rows: int, length: int, share: float) -> Batch:
    """The next batch, each token's target the one behind it; only a share of them counts."""
    ids, targets, weights = stream.next(rows, length)
    return (ids, *choose(targets, weights, share))


def held_out_losses(model: LlamaForCausalLM, rows: int = 12, length: int = 256) -> dict[str, float]:
    """Mean loss per answer token of each held-out kind, over one batch of each."""
    arrays = np.load(WORK / "held_out.npz")
    losses = {}
    for kind in sorted({name.split(".")[0] for name in arrays.files}):
        ids = torch.from_numpy(np.resize(arrays[f"{kind}.ids"], rows * length + 1).astype(np.int64))
        weights = torch.from_numpy(np.resize(arrays[f"{kind}.weights"], rows * length + 1) == 8)[1:].float()
        with torch.no_grad():
            total = weighted_loss(model, ids[:-1].view(rows, length), torch.arange(rows * length), ids[1:], weights)
        losses[kind] = round(float(total) / float(weights.sum()), 3)
    return losses


def main() -> None:
    """The whole run."""
    parser = arguments(__doc__, minutes=78, rows=16, accumulate=2, muon_rate=4e-3, adam_rate=3e-3, bf16=False)
    parser.add_argument("--share", type=float, default=0.625, help="share of the tokens that logits are made for")
    args = parser.parse_args()
    recipe = Recipe(
        work=WORK,
        config=CONFIG,
        model=new_model(),
        streams=(Stream(WORK / "train.npz"), Stream(WORK / "decay.npz")),
        lengths=(256, 512),
        batch=partial(next_tokens, share=args.share),
        loss=weighted_loss,
        held_out=held_out_losses,
    )
    pretrain(recipe, args)


if __name__ == "__main__":
    main()
