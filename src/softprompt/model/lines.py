"""Rows laid end to end in lines, and rows with tails as rows without: the two ways to run inputs with their tails.

A row is an input and any number of *tails*: continuations of it that do not see each other, such as the labels that are
scored behind it. What is kept of a row are the logits behind its input and behind each token of each tail, end to end.

Shapes: B rows, N lines of W columns, P virtual tokens, S = P + W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from softprompt.model.splice import Spliced, Stack

Ids = Sequence[int]
"""Token ids."""
Tails = Sequence[Sequence[int]]
"""Token ids of the tails of one row; none are as good as an empty one."""


@dataclass(frozen=True)
class Unfolded:
    """Rows with tails as rows without: a row for each tail, its input before it."""

    rows: list[list[int]]
    owner: list[int]
    """The row that each was made of."""
    keep: list[range]
    """Positions of each whose logits are kept; all rows' end to end they are in the order of the rows given."""


def unfold_rows(inputs: Sequence[Ids], tails: Sequence[Tails]) -> Unfolded:
    """Repeat each input for each of its tails; the logits behind the input itself come with the first."""
    unfolded = Unfolded([], [], [])
    for owner, (ids, ends) in enumerate(zip(inputs, tails, strict=True)):
        for number, tail in enumerate(ends or ((),)):
            if number and not tail:
                continue
            unfolded.rows.append([*ids, *tail])
            unfolded.owner.append(owner)
            unfolded.keep.append(range(len(ids) - (number == 0), len(ids) + len(tail)))
    return unfolded


@dataclass(frozen=True)
class Lines:
    """Rows laid end to end in N lines of W columns, so that little is padding. All rows of a line have the same prompt, and
    see it and themselves alone."""

    ids_NW: Tensor
    row_NW: Tensor
    """The row that each column belongs to; -1 where there is none."""
    tail_NW: Tensor
    """The tail of its row that each column belongs to, counted from 1; 0 in an input."""
    place_NW: Tensor
    """How many tokens of its row each column has before it, those of other tails left out."""
    which_N: Tensor
    """The prompt of each line."""
    line_B: list[int]
    """The line of each row."""
    start_B: list[int]
    """The column at which each row starts."""


def lay_lines(
    inputs: Sequence[Ids], tails: Sequence[Tails], which: Sequence[int], width: int, device: torch.device | None = None
) -> Lines:
    """Lay rows in lines of about `width` columns, or of the longest row; of the widths near it, the one that pads least.

    Args:
        which: the prompt of each row.
    """
    rows = [[*ids, *chain(*ends)] for ids, ends in zip(inputs, tails, strict=True)]
    lengths = [len(row) for row in rows]
    per_prompt: dict[int, list[int]] = {}
    for index in sorted(range(len(rows)), key=lambda i: -lengths[i]):
        per_prompt.setdefault(which[index], []).append(index)
    totals = [sum(lengths[i] for i in own) for own in per_prompt.values()]
    least = max(max(lengths), *(-(-total // -(-total // width)) for total in totals))
    laid = [_fill_lines(lengths, per_prompt, capacity) for capacity in range(least, least + width // 4 + 1, 4)]
    found = min(laid, key=lambda lines: len(lines) * max(used for _, used, _ in lines))
    shape = (len(found), max(used for _, used, _ in found))
    ids_NW, tail_NW, place_NW = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    row_NW = torch.full(shape, -1)
    line_B, start_B = [0] * len(rows), [0] * len(rows)
    for line, (_, _, members) in enumerate(found):
        start = 0
        for index in members:
            columns = slice(start, start + lengths[index])
            ids_NW[line, columns] = torch.tensor(rows[index], dtype=torch.long)
            row_NW[line, columns] = index
            place_NW[line, columns] = torch.arange(lengths[index])
            line_B[index], start_B[index] = line, start
            stem = len(inputs[index])
            begins = start + stem
            for number, length in enumerate(map(len, tails[index]), 1):
                tail_NW[line, begins : begins + length] = number
                place_NW[line, begins : begins + length] = torch.arange(stem, stem + length)
                begins += length
            start += lengths[index]
    which_N = torch.tensor([prompt for prompt, _, _ in found], device=device)
    return Lines(ids_NW.to(device), row_NW.to(device), tail_NW.to(device), place_NW.to(device), which_N, line_B, start_B)


_Line = tuple[int, int, list[int]]
"""A prompt, the columns used, and the rows in order."""


def _fill_lines(lengths: Sequence[int], per_prompt: dict[int, list[int]], capacity: int) -> list[_Line]:
    """First fit decreasing, each prompt apart."""
    lines: list[_Line] = []
    for prompt, own in per_prompt.items():
        begun = len(lines)
        for index in own:
            takes = lengths[index]
            place = next((n for n in range(begun, len(lines)) if lines[n][1] + takes <= capacity), None)
            if place is None:
                lines.append((prompt, takes, [index]))
            else:
                _, used, members = lines[place]
                members.append(index)
                lines[place] = (prompt, used + takes, members)
    return lines


def splice_lines(stack: Stack, lines: Lines) -> Spliced:
    """Mask (N x 1 x W x S, True where a column is seen) and positions (N x W) of lines behind their prompts' keys
    and values. A column without a row sees itself, or it would have nothing to attend to."""
    width = lines.row_NW.shape[1]
    same_NWW = lines.row_NW[:, :, None] == lines.row_NW[:, None, :]
    columns = torch.arange(width, device=same_NWW.device)
    used_NW = lines.row_NW >= 0
    tail_N1W, tail_NW1 = lines.tail_NW[:, None, :], lines.tail_NW[:, :, None]
    same_NWW &= (tail_N1W == 0) | (tail_N1W == tail_NW1)
    own_NWW = same_NWW & (columns[:, None] >= columns[None, :])
    prompt_NWP = stack.mask_KP[lines.which_N][:, None, :] & used_NW[:, :, None]
    mask_N1WS = torch.cat([prompt_NWP, own_NWW], dim=2)[:, None]
    positions_NW = stack.lengths_K[lines.which_N][:, None] + lines.place_NW
    return Spliced(mask_N1WS, torch.where(used_NW, positions_NW, 0))


def row_size(stem: int, tails: Tails, in_lines: bool) -> tuple[int, int]:
    """Tokens of the longest row, and the number of rows, that are run for an input of so many tokens with tails: one row
    with all tails where rows are laid in lines, else one for each that is not empty, or the first."""
    lengths = [len(tail) for tail in tails]
    return (stem + sum(lengths), 1) if in_lines else (stem + max(lengths), 1 + sum(map(bool, lengths[1:])))


def even_out(keep: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Kept positions of rows as a tensor, B x L: rows with fewer than the longest repeat their last one."""
    longest = max(len(places) for places in keep)
    return torch.tensor([[*places, *[places[-1]] * (longest - len(places))] for places in keep], device=device)


def pick_logits(logits_BLV: Tensor, found: Sequence[tuple[int, int]]) -> Tensor:
    """Logits N x V at pairs of a row and a place in it."""
    row_N, place_N = torch.tensor(found, device=logits_BLV.device).unbind(1)
    return logits_BLV[row_N, place_N]
