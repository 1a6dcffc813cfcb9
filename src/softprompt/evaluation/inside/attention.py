"""How much attention a causal base pays to each vector of a soft prompt where it is about to answer.

Shapes: P virtual tokens, B rows, S columns, H heads, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.evaluation.trials import Trial
from softprompt.model.splice import chunk_by_length, pad_rows, splice_rows, stack_prompts, with_front
from softprompt.progress import Progress

_BUDGET = 512
"""Padded tokens of a pass: each layer gives a number for every head and pair of them."""


@torch.no_grad()
def attention_paid(base: FrozenBase, trial: Trial, count: int, progress: Progress) -> list[float] | None:
    """The weight of attention from the last token of an input, behind which the answer begins, to each of the `count`
    vectors before it: the mean over rows, layers and heads. All columns of a row together have a weight of 1.

    None where the base tells no such weights, as encoders and state-space models do not.
    """
    if base.task_type != "CAUSAL_LM" or base.model.config.get_text_config().num_hidden_layers == 0:
        return None
    examples, before = trial.examples, base.model.config._attn_implementation
    total_P, vectors_PD = torch.zeros(count, dtype=torch.float64), trial.vectors_PD.to(base.device, base.dtype)
    lengths = [len(examples.front(row)) + count + len(examples.inputs[row]) for row in range(len(examples))]
    base.model.set_attn_implementation("eager")  # alone it tells its weights
    try:
        with progress.stage("attention", len(examples)) as advance:
            for rows in chunk_by_length(lengths, _BUDGET):
                stack = stack_prompts([with_front(base, examples.front(row), vectors_PD) for row in rows])
                tokens = pad_rows([examples.inputs[row] for row in rows], base.device)
                which_B = torch.arange(len(rows), device=base.device)
                embeds_BSD, spliced, start_B = splice_rows(stack, which_B, base.embed(tokens.ids_BT), tokens.mask_BT)
                output = base.model(
                    inputs_embeds=embeds_BSD,
                    attention_mask=spliced.mask_BS,
                    position_ids=spliced.positions_BS,
                    use_cache=False,
                    output_attentions=True,
                )
                layers = [layer for layer in output.attentions or () if layer is not None]
                if not layers:
                    return None
                last_B = start_B + tokens.mask_BT.sum(1) - 1
                total_P += _of_layers(layers, last_B, start_B - count, count)
                advance(len(rows), "")
    finally:
        base.model.set_attn_implementation(before)
    return [float(one) for one in total_P / len(examples)]


def _of_layers(layers: list[Tensor], last_B: Tensor, first_B: Tensor, count: int) -> Tensor:
    """The sum over rows of what their last tokens pay to the `count` columns from the first on, P, in the mean of the layers
    (each B x H x S x S) and heads."""
    rows_B = torch.arange(len(last_B), device=last_B.device)
    columns_BP = first_B[:, None] + torch.arange(count, device=last_B.device)
    found = [layer[rows_B, :, last_B].double().mean(1).gather(1, columns_BP).sum(0).cpu() for layer in layers]
    return torch.stack(found).mean(0)
