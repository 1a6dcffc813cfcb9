"""Joining soft prompts and tokens: embeddings, masks, positions. The one place where it is done.

Training, evaluation and serving all come through here, so a prompt means the same everywhere.

A row may end in several *tails*: continuations of its first tokens, its *stem*, that do not see each other, such as the
labels that are scored behind an input. Its ids are the stem's and then all tails', end to end.

Shapes: K prompts, P virtual tokens (of the longest prompt), B rows, T tokens, S = spliced tokens, D width, N lines of W
columns, L kept positions.

Two rules keep every architecture exact, sliding windows among them: prompts of unequal length are padded on the *left*, and
tokens on the *right*, so that no padding ever stands between a prompt and its input; and positions are always explicit,
counted from the first virtual token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
    lengths = [int(length) for length in stack.lengths_K]
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


def align_right_padded(ids_BT: Tensor, mask_BT: Tensor) -> Tokens:
    """Rows padded by the caller in whatever way (left, right, both), as right-padded rows of the same tokens."""
    mask_BT = mask_BT.bool()
    order_BT = torch.argsort((~mask_BT).int(), dim=1, stable=True)
    width = int(mask_BT.sum(1).max())
    return Tokens(ids_BT.gather(1, order_BT)[:, :width], mask_BT.gather(1, order_BT)[:, :width])


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


@dataclass(frozen=True)
class Unfolded:
    """Rows with tails as rows without: a row for each tail from which anything is kept, its stem before it."""

    rows: list[Sequence[int]]
    owner: list[int]
    """The row that each was made of."""
    keep: list[list[int]]
    found: list[tuple[int, int]]
    """For each kept position of the rows given, end to end: the row made, and the slot in what is kept of that."""


def unfold_rows(
    rows: Sequence[Sequence[int]], keep: Sequence[Sequence[int]], tails: Sequence[Sequence[int]] | None
) -> Unfolded:
    """Repeat each stem for each of its tails; `tails` has their lengths, and kept positions count through a row's ids."""
    made = Unfolded([], [], [], [])
    for owner, (ids, kept) in enumerate(zip(rows, keep, strict=True)):
        lengths = tails[owner] if tails else ()
        stem = len(ids) - sum(lengths)
        starts = [stem + sum(lengths[:tail]) for tail in range(len(lengths))]
        number: dict[int, int] = {}
        for place in kept:
            tail = max((t for t, start in enumerate(starts) if start <= place), default=0)
            if tail not in number:
                number[tail] = len(made.rows)
                made.rows.append([*ids[:stem], *ids[starts[tail] : starts[tail] + lengths[tail]]] if lengths else ids)
                made.owner.append(owner)
                made.keep.append([])
            row = number[tail]
            made.found.append((row, len(made.keep[row])))
            made.keep[row].append(place if place < stem else place - starts[tail] + stem)
    return made


@dataclass(frozen=True)
class Lines:
    """Rows laid end to end in N lines of W columns, so that little is padding. All rows of a line have the same prompt, and
    see it and themselves alone."""

    ids_NW: Tensor
    row_NW: Tensor
    """The row that each column belongs to; -1 where there is none."""
    tail_NW: Tensor
    """The tail of its row that each column belongs to, counted from 1; 0 in a stem."""
    place_NW: Tensor
    """How many tokens of its row each column has before it, those of other tails left out."""
    which_N: Tensor
    """The prompt of each line."""
    line_B: list[int]
    """The line of each row."""
    start_B: list[int]
    """The column at which each row starts."""


def lay_lines(
    rows: Sequence[Sequence[int]],
    which: Sequence[int],
    width: int,
    device: torch.device | None = None,
    tails: Sequence[Sequence[int]] | None = None,
) -> Lines:
    """Lay rows in lines of about `width` columns, or of the longest row; of the widths near it, the one that pads least.

    Args:
        which: the prompt of each row.
        tails: the lengths of each row's tails; none by default.
    """
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
            start += lengths[index]
            ends = tails[index] if tails else ()
            stem, begins = lengths[index] - sum(ends), start - sum(ends)
            for number, length in enumerate(ends, 1):
                tail_NW[line, begins : begins + length] = number
                place_NW[line, begins : begins + length] = torch.arange(stem, stem + length)
                begins += length
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
    """Mask (N x 1 x W x (P + W), True where a column is seen) and positions (N x W) of lines behind their prompts' keys
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


def row_size(stem: int, tails: Sequence[Sequence[int]], in_lines: bool) -> tuple[int, int]:
    """Tokens of the longest row, and the number of rows, that are run for a stem of so many tokens with tails: one row with
    all tails where rows are laid in lines, else one for each."""
    lengths = [len(tail) for tail in tails]
    return (stem + sum(lengths), 1) if in_lines else (stem + max(lengths), len(lengths))


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
