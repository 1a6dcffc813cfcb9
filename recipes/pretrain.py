"""Pretrains the built-in base within a budget of wall-clock minutes; a killed run goes on where its last checkpoint was.

    python recipes/pretrain.py --minutes 78

Everything in fp32, `sdpa` inside `torch.compile`: on the CPU this was made on (AVX-512 with bf16, no AMX) fp32 matrix
products ran 1.5 times as fast as bf16 ones and whole steps twice as fast. Logits are made only for the tokens with the
largest loss weights. The schedule follows the share of the budget spent.
"""

import argparse
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from muon import Muon
from transformers import LlamaConfig, LlamaForCausalLM

WORK = Path(__file__).resolve().parent / "work"
CHECKPOINT = WORK / "checkpoint.pt"
WEIGHT_UNIT = 0.5
DECAY_FROM = 0.55
"""Share of the budget after which the learning rate falls and the second stage of the mixture is read."""
CONFIG = {
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


def choose(
    targets_BT: torch.Tensor, weights_BT: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, targets and weights of the tokens with the largest weights, ties at random."""
    weights = weights_BT.flatten()
    chosen = torch.topk(weights + 0.4 * torch.rand_like(weights), int(share * len(weights))).indices.sort().values
    return chosen, targets_BT.flatten()[chosen], weights[chosen]


class Optimisers:
    """Muon for the matrices of the blocks, AdamW for the embeddings and norms."""

    def __init__(self, model: LlamaForCausalLM, muon_rate: float, adam_rate: float) -> None:
        self.model = model
        blocks = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
        rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "layers" not in n]
        self.muon = Muon(blocks, lr=muon_rate, weight_decay=0.05)
        self.adam = torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.rates = [(o, o.param_groups[0]["lr"]) for o in (self.muon, self.adam)]

    def step(self, rate: float) -> float:
        """Steps at `rate` of the peak rates; the gradient norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser, peak in self.rates:
            optimiser.param_groups[0]["lr"] = peak * rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return float(norm)

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "model": self.model.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes a state back."""
        self.model.load_state_dict(state["model"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def rate_at(progress: float) -> float:
    """Share of the peak learning rate: 2% warm-up, flat, then linear to zero."""
    if progress < 0.02:
        return max(progress / 0.02, 0.02)
    return 1.0 if progress < DECAY_FROM else max(0.0, (1 - progress) / (1 - DECAY_FROM))


class Stream:
    """Windows of T + 1 tokens, one after another, round and round; one document may run over a window's edge."""

    def __init__(self, path: Path) -> None:
        arrays = np.load(path)  # an instruction's input tokens weigh 1 unit, running text 2, answers more
        self.ids, self.weights, self.at = (
            torch.from_numpy(arrays["ids"].astype(np.int32)),
            torch.from_numpy(arrays["weights"]),
            0,
        )

    def next(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ids, targets, weights, each rows x length."""
        number = rows * length
        if self.at + number + 1 > len(self.ids):
            self.at = 0
        ids = self.ids[self.at : self.at + number + 1].long()
        weights = self.weights[self.at + 1 : self.at + number + 1].float() * WEIGHT_UNIT
        self.at += number
        return ids[:-1].view(rows, length), ids[1:].view(rows, length), weights.view(rows, length)


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


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint so that a kill leaves the old one or the new one."""
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def main() -> None:
    """The whole run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=78.0)
    parser.add_argument(
        "--until",
        type=float,
        default=0.0,
        help="end by this time (seconds since the epoch), whatever --minutes says",
    )
    parser.add_argument("--rows", type=int, default=16, help="rows of 256 tokens in a forward pass")
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--muon-rate", type=float, default=4e-3)
    parser.add_argument("--adam-rate", type=float, default=3e-3)
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--long-from", type=float, default=0.8, help="share of the budget after which rows have 512 tokens")
    parser.add_argument("--share", type=float, default=0.625, help="share of the tokens that logits are made for")
    parser.add_argument("--fresh", action="store_true", help="ignore an existing checkpoint, write none")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = new_model()
    model.train()
    optimisers = Optimisers(model, args.muon_rate, args.adam_rate)
    streams = [Stream(WORK / "train.npz"), Stream(WORK / "decay.npz")]
    step, elapsed, tokens, mean = 0, 0.0, 0, 0.0
    if CHECKPOINT.exists() and not args.fresh:
        state = torch.load(CHECKPOINT, weights_only=True)
        optimisers.load(state["optimisers"])
        step, elapsed, tokens, mean = state["step"], state["elapsed"], state["tokens"], state["loss"]
        for stream, at in zip(streams, state["at"], strict=True):
            stream.at = at
    loss_of = torch.compile(weighted_loss, dynamic=False)
    log = open(WORK / ("smoke.log" if args.fresh else "pretrain.log"), "a", encoding="utf-8")  # noqa: SIM115
    budget = args.minutes * 60
    started, saved = time.time() - elapsed, time.time()
    if args.until:
        budget = args.until - started

    def checkpoint() -> None:
        if not args.fresh:
            save(
                CHECKPOINT,
                {
                    "optimisers": optimisers.state(),
                    "step": step,
                    "elapsed": time.time() - started,
                    "tokens": tokens,
                    "at": [stream.at for stream in streams],
                    "loss": mean,
                    "config": CONFIG,
                },
            )

    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    mark, mark_tokens = time.time(), tokens
    while not stopped and (progress := (time.time() - started) / budget) < 1:
        long = progress > args.long_from
        rows, length = (args.rows // 2, 512) if long else (args.rows, 256)
        batches = []
        for _ in range(args.accumulate):
            ids, targets, weights = streams[progress > DECAY_FROM].next(rows, length)
            batches.append((ids, *choose(targets, weights, args.share)))
        total = float(sum(weights.sum() for *_, weights in batches))
        loss = 0.0
        for ids, chosen, targets, weights in batches:
            part = loss_of(model, ids, chosen, targets, weights) / total
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        norm = optimisers.step(rate_at(progress))
        step, tokens = step + 1, tokens + args.accumulate * rows * length
        mean = loss if not mean else 0.98 * mean + 0.02 * loss
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}")
        if step % 20 == 0 or step < 4:
            now = time.time()
            line = {
                "step": step,
                "progress": round(progress, 4),
                "tokens": tokens,
                "loss": round(mean, 4),
                "norm": round(norm, 3),
                "tokens_per_s": round((tokens - mark_tokens) / (now - mark)),
            }
            if step % 300 == 0:
                line["held_out"] = held_out_losses(model)
            mark, mark_tokens = time.time(), tokens
            log.write(json.dumps(line) + "\n")
            log.flush()
        if time.time() - saved > args.checkpoint_minutes * 60:
            checkpoint()
            saved = time.time()
    checkpoint()
    if stopped:
        return
    log.write(
        json.dumps(
            {
                "done": True,
                "step": step,
                "tokens": tokens,
                "loss": round(mean, 4),
                "minutes": round((time.time() - started) / 60, 1),
                "held_out": held_out_losses(model),
            }
        )
        + "\n"
    )
    log.close()


if __name__ == "__main__":
    main()
