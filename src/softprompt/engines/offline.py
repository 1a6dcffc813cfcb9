"""The in-process engine: rows of different prompts through one frozen model, labels scored or text generated.

It gets tensors and token ids, never names. Each prompt of a call that has rows goes through the base once, whatever their
number.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.model.label_scores import Labels, label_contexts, plan_labels
from softprompt.model.prefix import Prefix, compute_prefix, lays_lines, logits_at, new_cache, run_tokens, shares_prefix
from softprompt.model.splice import Stack, chunk_by_length, pad_rows, row_size, splice_tokens, stack_prompts
from softprompt.progress import Silent

TOKEN_BUDGET = 4096
"""Padded tokens of a chunk of rows, and virtual ones of the prompts whose keys and values are there at once."""

Progress = Callable[[int], None]
"""Called with the number of rows just done."""

_Run = Callable[[Stack, Prefix | None, list[int], list[int]], None]
"""Runs rows, given by their numbers, behind prompts: those of a stack, and which of them each row has."""


class OfflineEngine:
    """Runs one frozen base in this process, in chunks that fit the memory: when it runs out they are halved, for good."""

    def __init__(
        self, base: FrozenBase, *, token_budget: int = TOKEN_BUDGET, warn: Callable[[str], None] | None = None
    ) -> None:
        """`warn` is told when chunks are halved; by default Python's `warnings`."""
        self.base = base
        self.token_budget = token_budget
        self._warn = warn or Silent().warn

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Tensor],
        which: Sequence[int],
        inputs: Sequence[Sequence[int]],
        labels: Sequence[Labels],
        progress: Progress | None = None,
    ) -> list[list[float]]:
        """Summed log-probability of each label behind each input, in one pass over rows of mixed prompts.

        Args:
            prompts: P_k x D each; an empty one (0 x D) stands for no prompt.
            which: the prompt of each row.
            inputs: token ids of each row, at least one.
            labels: token ids of each label, row by row.

        Raises:
            BaseModelError: there is no memory for a single row.
        """
        results: list[list[float]] = [[] for _ in inputs]
        tails = [label_contexts(candidates) for candidates in labels]
        longest = max((len(ids) + max(map(len, ends)) for ids, ends in zip(inputs, tails, strict=True)), default=0)
        in_lines = lays_lines(self.base, max(map(len, prompts), default=0) + longest)
        sizes = [row_size(len(ids), ends, in_lines) for ids, ends in zip(inputs, tails, strict=True)]

        def run(stack: Stack, prefix: Prefix | None, group: list[int], owners: list[int]) -> None:
            plan = plan_labels([inputs[i] for i in group], [labels[i] for i in group])
            logits_NV = logits_at(self.base, stack, prefix, owners, plan.rows, plan.keep, plan.tails)
            for index, scores in zip(group, plan.scores(logits_NV), strict=True):
                results[index] = scores.tolist()

        self._run_lots(run, prompts, which, [size for size, _ in sizes], [rows for _, rows in sizes], progress)
        return results

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Tensor],
        which: Sequence[int],
        inputs: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        progress: Progress | None = None,
    ) -> list[list[int]]:
        """Greedy continuation of each input, up to a bound of its own, without the end token.

        Raises:
            BaseModelError: there is no memory for a single row.
        """
        results: list[list[int]] = [[] for _ in inputs]
        lengths = [len(ids) + bound for ids, bound in zip(inputs, max_new_tokens, strict=True)]

        def run(stack: Stack, prefix: Prefix | None, group: list[int], owners: list[int]) -> None:
            rows = [list(inputs[i]) for i in group]
            bounds = [max_new_tokens[i] for i in group]
            if prefix is None:
                told = self._generate_spliced(stack, owners, rows, bounds)
            else:
                told = self._generate_cached(stack, prefix, owners, rows, bounds)
            for index, ids in zip(group, told, strict=True):
                results[index] = ids

        self._run_lots(run, prompts, which, lengths, [1] * len(inputs), progress)
        return results

    def _run_lots(
        self,
        run: _Run,
        prompts: Sequence[Tensor],
        which: Sequence[int],
        lengths: Sequence[int],
        rows: Sequence[int],
        progress: Progress | None,
    ) -> None:
        """Run items behind their prompts, in lots of prompts that fit the memory: those of a whole library need not."""
        of_prompt: dict[int, list[int]] = defaultdict(list)
        for item, prompt in enumerate(which):
            of_prompt[prompt].append(item)
        used = sorted(of_prompt)

        def run_lot(lot: list[int]) -> None:
            stack, prefix = self._prepare([prompts[used[at]] for at in lot])
            owner = {item: place for place, at in enumerate(lot) for item in of_prompt[used[at]]}
            items = sorted(owner)

            def run_items(group: list[int]) -> None:
                chosen = [items[at] for at in group]
                run(stack, prefix, chosen, [owner[item] for item in chosen])

            self._run_chunks(run_items, [lengths[item] for item in items], [rows[item] for item in items], progress)

        self._run_chunks(run_lot, [max(1, len(prompts[prompt])) for prompt in used], [1] * len(used), None)

    def _run_chunks(
        self, run: Callable[[list[int]], None], lengths: Sequence[int], rows: Sequence[int], progress: Progress | None
    ) -> None:
        """Run items in chunks of similar length, each item so long and of so many rows."""
        waiting = deque([list(range(len(lengths)))] if lengths else [])
        while waiting:
            group = waiting.popleft()
            longest = max(lengths[i] for i in group)
            size = longest * sum(rows[i] for i in group)
            if len(group) > 1 and size > self.token_budget:
                parts = chunk_by_length([lengths[i] for i in group], self.token_budget, [rows[i] for i in group])
                waiting.extendleft(reversed([[group[place] for place in part] for part in parts]))
            elif self._fits(run, group):
                if progress:
                    progress(len(group))
            elif len(group) == 1:
                raise BaseModelError(
                    f"out of memory with a single row of {longest} tokens on {self.base.device}; "
                    "use a smaller base, dtype or quantization, or shorter inputs"
                )
            else:
                self.token_budget = size // 2
                self._warn(f"out of memory: rows now run in chunks of {self.token_budget} tokens, which is slower")
                waiting.appendleft(group)

    def _fits(self, run: Callable[[list[int]], None], group: list[int]) -> bool:
        """Run a chunk; whether there was memory for it."""
        try:
            run(group)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        else:
            return True
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _prepare(self, prompts: Sequence[Tensor]) -> tuple[Stack, Prefix | None]:
        base = self.base
        stack = stack_prompts([prompt_PD.to(base.device, base.dtype) for prompt_PD in prompts])
        return stack, compute_prefix(base, stack) if shares_prefix(base) else None

    def _generate_spliced(self, stack: Stack, which: list[int], rows: list[list[int]], bounds: list[int]) -> list[list[int]]:
        """Run everything again for each token: the slow twin, and the way for bases without a shared prefix."""
        told: list[list[int]] = [[] for _ in rows]
        alive = list(range(len(rows)))
        while alive:
            grown = [rows[i] + told[i] for i in alive]
            keep = [[len(row) - 1] for row in grown]
            logits_NV = logits_at(self.base, stack, None, [which[i] for i in alive], grown, keep)
            alive = self._extend(told, alive, bounds, logits_NV.argmax(-1).tolist())
        return told

    def _generate_cached(
        self, stack: Stack, prefix: Prefix, which: list[int], rows: list[list[int]], bounds: list[int]
    ) -> list[list[int]]:
        base = self.base
        told: list[list[int]] = [[] for _ in rows]
        alive = list(range(len(rows)))
        which_B = torch.tensor(which, device=base.device)
        tokens = pad_rows(rows, base.device)
        keep_B1 = torch.tensor([[len(row) - 1] for row in rows], device=base.device)
        logits_BLV, cache = run_tokens(base, stack, prefix, which_B, tokens, keep_B1, keep_cache=True)
        cache, mask_BS = _align_ends(cache, splice_tokens(stack, which_B, tokens.mask_BT).mask_BS)
        positions_B = stack.lengths_K[which_B] + tokens.mask_BT.sum(1)
        places = alive  # the row of the cache that each living row has
        while True:
            chosen = logits_BLV[:, -1].argmax(-1)
            best = chosen.tolist()
            ids = [best[place] for place in places]
            pairs = dict(zip(alive, places, strict=True))
            alive = self._extend(told, alive, bounds, ids)
            if not alive:
                return told
            places = [pairs[row] for row in alive]
            if 2 * len(places) <= len(chosen):
                cache, mask_BS, positions_B, chosen = _select(places, cache, mask_BS, positions_B, chosen)
                places = list(range(len(places)))
            mask_BS = torch.cat([mask_BS, mask_BS.new_ones(len(mask_BS), 1)], dim=1)
            output = base.model(
                inputs_embeds=base.embed(chosen[:, None]),
                attention_mask=mask_BS,
                position_ids=positions_B[:, None].clamp_max((base.context or 1 << 30) - 1),
                past_key_values=cache,
                use_cache=True,
            )
            logits_BLV, positions_B = output.logits, positions_B + 1

    def _extend(self, told: list[list[int]], alive: list[int], bounds: list[int], ids: list[int]) -> list[int]:
        """Append each living row's next token; return the rows that go on."""
        going: list[int] = []
        for row, token in zip(alive, ids, strict=True):
            if token in self.base.end_ids:
                continue
            told[row].append(token)
            if len(told[row]) < bounds[row]:
                going.append(row)
        return going


def out_of_memory(error: Exception) -> bool:
    """Whether an error of torch's says that memory ran out."""
    # CUDA has a class for it; the CPU's allocator only has words.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _align_ends(cache: Any, mask_BS: Tensor) -> tuple[Any, Tensor]:
    """Move the padding of each row to its front, so that what is generated next stands right behind the input: distances
    between columns are distances between positions again, as sliding windows need."""
    width = int(mask_BS.sum(1).max())
    order_BS = torch.argsort(mask_BS.int(), dim=1, stable=True)[:, -width:]
    moved = []
    for layer in cache.layers:
        index = order_BS[:, None, :, None].expand(-1, layer.keys.shape[1], -1, -1)
        moved.append(
            (
                layer.keys.gather(2, index.expand(-1, -1, -1, layer.keys.shape[3])),
                layer.values.gather(2, index.expand(-1, -1, -1, layer.values.shape[3])),
            )
        )
    return new_cache(moved), mask_BS.gather(1, order_BS)


def _select(
    places: list[int], cache: Any, mask_BS: Tensor, positions_B: Tensor, chosen_B: Tensor
) -> tuple[Any, Tensor, Tensor, Tensor]:
    """Keep only some rows of everything."""
    kept = new_cache([(layer.keys[places], layer.values[places]) for layer in cache.layers])
    return kept, mask_BS[places], positions_B[places], chosen_B[places]
