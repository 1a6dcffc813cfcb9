"""A pretraining run within a budget of wall-clock minutes; a killed run goes on where its last checkpoint was.

The schedule follows the share of the budget spent. What is pretrained, on what, by which loss, is a :class:`Recipe`.
"""

import argparse
import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from muon import Muon

from softprompt.progress import Bars

WEIGHT_UNIT = 0.5
DECAY_FROM = 0.55
"""Share of the budget after which the learning rate falls and the second stage of the mixture is read."""

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Token ids B x T; of the flattened batch the K chosen positions, their targets and weights."""


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


def choose(
    targets_BT: torch.Tensor, weights_BT: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, targets and weights of the tokens with the largest weights, ties at random."""
    weights = weights_BT.flatten()
    chosen = torch.topk(weights + 0.4 * torch.rand_like(weights), int(share * len(weights))).indices.sort().values
    return chosen, targets_BT.flatten()[chosen], weights[chosen]


@dataclass(frozen=True)
class Recipe:
    """What is pretrained, and how."""

    work: Path
    """Where its arrays, checkpoint and log lie."""
    config: dict[str, Any]
    """Of the model, kept in the checkpoint."""
    model: Any
    """Freshly initialised."""
    streams: tuple[Stream, Stream]
    """What is read before and after the rate begins to fall."""
    lengths: tuple[int, int]
    """Tokens of a row before and after `--long-from`."""
    batch: Callable[[Stream, int, int], Batch]
    """The next rows x length tokens."""
    loss: Callable[..., torch.Tensor]
    """Of the model and a batch: the sum over its chosen positions of weight times cross-entropy."""
    held_out: Callable[[Any], dict[str, float]]
    """Figures on text that is never trained on."""

    @property
    def checkpoint(self) -> Path:
        """The file that a killed run goes on from."""
        return self.work / "checkpoint.pt"


class Optimisers:
    """Muon for the matrices of the blocks, AdamW for the embeddings, norms and heads."""

    def __init__(self, model: Any, muon_rate: float, adam_rate: float) -> None:
        self.model = model
        blocks = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layer" in n]
        rest = [p for n, p in model.named_parameters() if p.ndim != 2 or ".layer" not in n]
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


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint so that a kill leaves the old one or the new one."""
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def arguments(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """What may be asked of a run, with the defaults of a recipe."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float)
    parser.add_argument(
        "--until",
        type=float,
        default=0.0,
        help="end by this time (seconds since the epoch), whatever --minutes says",
    )
    parser.add_argument("--rows", type=int, help="rows in a forward pass")
    parser.add_argument("--accumulate", type=int, help="forward passes in a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="matrix products in bf16: quicker on CPUs with AMX, slower on others",
    )
    parser.add_argument("--no-compile", action="store_true", help="for a short look, since compiling takes a minute")
    parser.add_argument("--muon-rate", type=float)
    parser.add_argument("--adam-rate", type=float)
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument(
        "--long-from", type=float, default=0.8, help="share of the budget after which rows are twice as long"
    )
    parser.add_argument("--fresh", action="store_true", help="ignore an existing checkpoint, write none")
    parser.set_defaults(**defaults)
    return parser


def pretrain(recipe: Recipe, args: argparse.Namespace) -> dict[str, Any] | None:
    """The whole run; its last figures, or None where it was told to stop."""
    torch.set_num_threads(args.threads)
    recipe.model.train()
    optimisers = Optimisers(recipe.model, args.muon_rate, args.adam_rate)
    step, elapsed, tokens, mean, cpu = 0, 0.0, 0, 0.0, 0.0
    if recipe.checkpoint.exists() and not args.fresh:
        state = torch.load(recipe.checkpoint, weights_only=True)
        optimisers.load(state["optimisers"])
        step, elapsed, tokens, mean, cpu = (state.get(name, 0) for name in ("step", "elapsed", "tokens", "loss", "cpu"))
        for stream, at in zip(recipe.streams, state["at"], strict=True):
            stream.at = at
    loss_of = recipe.loss if args.no_compile else torch.compile(recipe.loss, dynamic=False)
    log = open(recipe.work / ("smoke.log" if args.fresh else "pretrain.log"), "a", encoding="utf-8")  # noqa: SIM115
    budget = args.minutes * 60
    started, saved, used = time.time() - elapsed, time.time(), time.process_time() - cpu
    if args.until:
        budget = args.until - started

    def checkpoint() -> None:
        if not args.fresh:
            save(
                recipe.checkpoint,
                {
                    "optimisers": optimisers.state(),
                    "step": step,
                    "elapsed": time.time() - started,
                    "cpu": time.process_time() - used,
                    "tokens": tokens,
                    "at": [stream.at for stream in recipe.streams],
                    "loss": mean,
                    "config": recipe.config,
                },
            )

    stopped: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    mark, mark_tokens, shown = time.time(), tokens, 0
    with Bars().stage("train", 1000) as advance, log:
        while not stopped and (progress := (time.time() - started) / budget) < 1:
            long = progress > args.long_from
            rows, length = (args.rows * recipe.lengths[0] // recipe.lengths[long], recipe.lengths[long])
            stream = recipe.streams[progress > DECAY_FROM]
            batches = [recipe.batch(stream, rows, length) for _ in range(args.accumulate)]
            total = float(sum(weights.sum() for *_, weights in batches))
            loss = 0.0
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                    part = loss_of(recipe.model, *batch) / total
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
                    line["held_out"] = recipe.held_out(recipe.model)
                mark, mark_tokens = time.time(), tokens
                log.write(json.dumps(line) + "\n")
                log.flush()
                advance(int(1000 * progress) - shown, f"loss {mean:.2f}, {line['tokens_per_s']} tokens/s")
                shown = int(1000 * progress)
            if time.time() - saved > args.checkpoint_minutes * 60:
                checkpoint()
                saved = time.time()
        signal.signal(signal.SIGTERM, before)
        checkpoint()
        if stopped:
            return None
        figures = {
            "done": True,
            "step": step,
            "tokens": tokens,
            "loss": round(mean, 4),
            "minutes": round((time.time() - started) / 60, 1),
            "cpu_minutes": round((time.process_time() - used) / 60, 1),
            "held_out": recipe.held_out(recipe.model),
        }
        log.write(json.dumps(figures) + "\n")
    return figures
