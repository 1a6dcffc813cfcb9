"""Joining soft prompts and tokens: embeddings, masks, positions. The one place where it is done.

Training, evaluation and serving all come through here, so a prompt means the same everywhere.

Shapes: K prompts, P virtual tokens (of the longest prompt), B rows, T tokens, S = spliced tokens, D width.

Two rules keep every architecture exact, sliding windows among them: prompts of unequal length are padded on the *left*, and
tokens on the *right*, so that no padding ever stands between a prompt and its input; and positions are always explicit,
counted from the first virtual token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase


@dataclass(frozen=True)
class Stack:
    """K prompts as one tensor, padded on the left to the longest (at least one column, so that a row without any prompt
    is only a row whose columns are all masked)."""

    vectors_KPD: Tensor
    mask_KP: Tensor
    """True where there is a virtual token."""
    lengths_K: Tensor

    @property
    def columns(self) -> int:
        """P, the padded length."""
        return int(self.mask_KP.shape[1])


def no_prompt(base: FrozenBase) -> Tensor:
    """The vectors of no prompt, 0 x D."""
    return torch.zeros(0, base.width, dtype=base.dtype, device=base.device)


def with_front(base: FrozenBase, front: Sequence[int], vectors_PD: Tensor) -> Tensor:
    """Vectors behind the embeddings of tokens, as one longer prompt: it is what a prompt is that does not stand before
    everything."""
    if not front:
        return vectors_PD
    front_FD = base.embed(torch.tensor(front, dtype=torch.long, device=base.device)).detach()
    return torch.cat([front_FD.to(vectors_PD.device, vectors_PD.dtype), vectors_PD])


def stack_prompts(prompts: Sequence[Tensor]) -> Stack:
    """Stack prompts, each P_k x D with P_k >= 0, of one dtype and device."""
    longest = max(1, *(len(prompt_PD) for prompt_PD in prompts))
    padded = [torch.nn.functional.pad(prompt_PD, (0, 0, longest - len(prompt_PD), 0)) for prompt_PD in prompts]
    return stack_padded(torch.stack(padded), [len(prompt_PD) for prompt_PD in prompts])


def stack_padded(vectors_KPD: Tensor, lengths: Sequence[int]) -> Stack:
    """A stack of vectors that are padded on the left already."""
    lengths_K = torch.tensor(lengths, device=vectors_KPD.device)
    columns = torch.arange(vectors_KPD.shape[1], device=vectors_KPD.device)
    mask_KP = columns[None, :] >= vectors_KPD.shape[1] - lengths_K[:, None]
    return Stack(vectors_KPD, mask_KP, lengths_K)


def extend_stack(stack: Stack, heads: Sequence[Tensor]) -> Stack:
    """Each prompt followed by token embeddings (H_k x D, H_k >= 0), as one longer prompt; gradients reach the vectors."""
    longest = max(len(head_HD) for head_HD in heads)
    if longest == 0:
        return stack
    lengths = stack.lengths_K.tolist()
    return stack_prompts(
        [
            torch.cat([stack.vectors_KPD[k, stack.columns - length :], head_HD])
            for k, (length, head_HD) in enumerate(zip(lengths, heads, strict=True))
        ]
    )


def common_head(rows: Sequence[list[int]]) -> list[int]:
    """The ids that all rows begin with; none of no rows."""
    if not rows:
        return []
    first, last = min(rows), max(rows)  # in the order of lists; what these two share, all between them share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def split_head(base: FrozenBase, inputs: Sequence[list[int]]) -> tuple[Tensor, list[list[int]]]:
    """What all inputs begin with, as the vectors of a prompt (P x D), and the rest of each, a token at least: a long text is
    run once then, and not once a row."""
    head = [] if any(base.frame) else common_head([ids[:-1] for ids in inputs])  # behind which no frame may begin
    with torch.no_grad():
        head_PD = base.embed(torch.tensor(head, dtype=torch.long, device=base.device))
    return head_PD, [ids[len(head) :] for ids in inputs]


@dataclass(frozen=True)
class Tokens:
    """B rows of token ids, padded on the right."""

    ids_BT: Tensor
    mask_BT: Tensor


def pad_rows(rows: Sequence[Sequence[int]], device: torch.device | None = None) -> Tokens:
    """Rows of ids as one right-padded tensor. The padding id is 0; it is masked, so any id would do."""
    width = max(len(row) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids_BT[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask_BT[index, : len(row)] = True
    return Tokens(ids_BT.to(device), mask_BT.to(device))


@dataclass(frozen=True)
class Spliced:
    """What goes into a model beside the embeddings."""

    mask_BS: Tensor
    """Attention mask over everything attended to."""
    positions_BS: Tensor
    """Position of each token that is run."""


def splice_prompts(stack: Stack) -> Spliced:
    """Mask and positions of the prompts run alone, K rows of P virtual tokens.

    An empty prompt attends to its own padding here, or its row would have nothing to attend to; nobody ever attends to it.
    """
    mask_KP = stack.mask_KP | (stack.lengths_K == 0)[:, None]
    positions_KP = torch.arange(stack.columns, device=mask_KP.device)[None, :] - (stack.columns - stack.lengths_K)[:, None]
    return Spliced(mask_KP, positions_KP.clamp_min(0))


def splice_tokens(stack: Stack, which_B: Tensor, mask_BT: Tensor) -> Spliced:
    """Mask (B x (P + T)) and positions (B x T) of token rows that follow their prompts' keys and values."""
    positions_BT = stack.lengths_K[which_B][:, None] + torch.arange(mask_BT.shape[1], device=mask_BT.device)[None, :]
    # Padding repeats the last position: it is masked, and must not run past the model's table of positions.
    last_B1 = (stack.lengths_K[which_B] + mask_BT.sum(1) - 1).clamp_min(0)[:, None]
    return Spliced(torch.cat([stack.mask_KP[which_B], mask_BT], dim=1), torch.minimum(positions_BT, last_B1))


def splice_rows(stack: Stack, which_B: Tensor, embeds_BTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Spliced, Tensor]:
    """Prompt and tokens of each row joined in one sequence, `[prompt][tokens][padding]`.

    Returns:
        embeddings B x S x D; mask and positions, B x S; and for each row where its tokens start (B).
    """
    mask_BS = torch.cat([stack.mask_KP[which_B], mask_BT], dim=1)
    embeds_BSD = torch.cat([stack.vectors_KPD[which_B], embeds_BTD], dim=1)
    width = int(mask_BS.sum(1).max())
    order_BS = torch.argsort((~mask_BS).int(), dim=1, stable=True)[:, :width]
    mask_BS = mask_BS.gather(1, order_BS)
    embeds_BSD = embeds_BSD.gather(1, order_BS[:, :, None].expand(-1, -1, embeds_BSD.shape[2]))
    positions_BS = torch.arange(width, device=mask_BS.device)[None, :]
    last_B1 = (mask_BS.sum(1) - 1).clamp_min(0)[:, None]
    return embeds_BSD, Spliced(mask_BS, torch.minimum(positions_BS, last_B1)), stack.lengths_K[which_B]


def chunk_by_length(lengths: Sequence[int], budget: int, rows: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Indices in groups of similar length, each of at most `budget` padded tokens (or one item).

    Args:
        lengths: tokens of the longest row of each item.
        budget: bound on rows times the longest row of a group.
        rows: how many rows each item takes; one by default.
    """
    group: list[int] = []
    held = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        takes = rows[index] if rows is not None else 1
        if group and (held + takes) * lengths[group[0]] > budget:
            yield group
            group, held = [], 0
        group.append(index)
        held += takes
    if group:
        yield group


def chunk_by_prompt(which: Sequence[int], tokens: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in groups of at most `budget` tokens (or one item), items of one prompt beside each other.

    Args:
        which: the prompt of each item.
        tokens: of all rows of each item.
    """
    group: list[int] = []
    held = 0
    for index in sorted(range(len(which)), key=lambda i: which[i]):
        if group and held + tokens[index] > budget:
            yield group
            group, held = [], 0
        group.append(index)
        held += tokens[index]
    if group:
        yield group
