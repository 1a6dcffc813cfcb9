"""Passes of the training step on a GPU, recorded once and played again.

A layer of a small base runs for microseconds on a GPU, and telling it what to run takes Python far longer: a step of a few
thousand tokens is the time that it takes to launch some thousands of kernels, there and back. A CUDA graph launches them all
at once. It has the shapes and the memory that it was recorded with, so a pass is padded to the next of a few shapes, and
what comes in is copied to where the graph reads it. To record one takes as long as some tens of steps, so a shape that a
larger graph holds is played by that one, until it has come often enough to be worth its own.

A graph is used after it has been seen to give what the base itself gives, gradient too.

Shapes: B rows, S spliced tokens, L kept positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.model.recompute import RECOMPUTES

Pass = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Embeddings B x S x D, a mask to be added (B x 1 x S x S), positions B x S and kept positions B x L, to logits
B x L x V."""
Shape = tuple[int, int, int, str]
"""Rows, columns and kept positions as they are padded, and the attention."""
Record = Callable[[Pass, tuple[Tensor, ...]], Pass]
"""Makes a graph of a pass, from tensors of the shapes that will come."""

ROWS, COLUMNS, KEPT = 8, 16, 4
"""Rows, columns and kept positions are padded to multiples of these, which are few shapes and little padding."""
HELD = 24
"""Shapes that are known, with their graphs: the ones used last."""
AGAIN, OFTEN = 2, 12
"""At which meeting a shape is recorded: where no graph can play it, and where a larger one can."""
WASTE = 2
"""How many times its tokens a pass may be padded to, to be played by a larger graph."""
LARGEST = 10**13
"""Weights times tokens of a pass; a larger one keeps a GPU busy for longer than it takes to launch."""
MOST_LOGITS = 2**29
"""Numbers in the logits of a pass, which a graph keeps for good."""


class Graphs:
    """The recorded passes of one base."""

    def __init__(self, base: FrozenBase, run: Pass, record: Record | None = None) -> None:
        """
        Args:
            run: the pass.
            record: what makes a graph of it; by default torch's.
        """
        self._base, self._run, self._record = base, run, record or Recorder()
        self._graphs: OrderedDict[Shape, Pass | int] = OrderedDict()
        """Of each shape its graph, or how often it was met without one."""
        self.works = True
        """False once a pass could not be recorded, or came out otherwise: the base then runs as it is."""

    def takes(self, rows: int, columns: int, kept: int) -> bool:
        """Whether a pass of these sizes is better played than run. What is played keeps all activations, and has a way back
        to the embeddings alone: weights that are trained would get no gradient."""
        base = self._base
        if not self.works or base.batch_invariant or RECOMPUTES.get():
            return False
        if any(weight.requires_grad for weight in base.model.parameters()):
            return False
        return rows * kept * base.embedding.weight.shape[0] <= MOST_LOGITS and base.params * rows * columns <= LARGEST

    @property
    def recorded(self) -> int:
        """Passes that there are to play."""
        return sum(not isinstance(graph, int) for graph in self._graphs.values())

    def run(self, embeds_BSD: Tensor, mask_BS: Tensor, positions_BS: Tensor, keep_BL: Tensor) -> Tensor | None:
        """Logits B x L x V of a pass with a way back; None where it was not recorded. The first pass of a shape is not: a
        shape that does not come again is not worth it."""
        (rows, columns), kept = mask_BS.shape, keep_BL.shape[1]
        own = (rows + -rows % ROWS, columns + -columns % COLUMNS, kept + -kept % KEPT, self._attention)
        shape = self._playing(own)
        if shape is None:
            return None
        more = [whole - part for whole, part in zip(shape[:3], (rows, columns, kept), strict=True)]
        given = (
            F.pad(embeds_BSD, (0, 0, 0, more[1], 0, more[0])),
            _causal_mask(F.pad(mask_BS, (0, more[1], 0, more[0])), embeds_BSD.dtype),
            F.pad(positions_BS, (0, more[1], 0, more[0])),
            F.pad(keep_BL, (0, more[2], 0, more[0])),
        )
        played = self._graphs[shape]
        if isinstance(played, int):
            made = self._made(given)
            if made is None:
                return None
            played = made
        self._keep(shape, played)
        return played(*given)[:rows, :kept]

    @property
    def _attention(self) -> str:
        return str(self._base.model.config._attn_implementation)

    def _playing(self, own: Shape) -> Shape | None:
        """The shape whose graph plays a pass, or is to be recorded for it: its own, or the smallest that holds it."""
        met = self._graphs.get(own, 0)
        if not isinstance(met, int):
            return own
        larger = [
            shape
            for shape, graph in self._graphs.items()
            if not isinstance(graph, int)
            and shape[3] == own[3]
            and all(its >= wanted for its, wanted in zip(shape[:3], own[:3], strict=True))
            and shape[0] * shape[1] <= WASTE * own[0] * own[1]
        ]
        smallest = min(larger, key=lambda shape: shape[0] * shape[1], default=None)
        if smallest is not None:
            self._graphs.move_to_end(smallest)  # so that the shape that it is to play does not push it out
        self._keep(own, met + 1)
        return own if met + 1 >= (OFTEN if larger else AGAIN) else smallest

    def _keep(self, shape: Shape, graph: Pass | int) -> None:
        self._graphs[shape] = graph
        self._graphs.move_to_end(shape)
        if len(self._graphs) > HELD:
            self._graphs.popitem(last=False)

    def _made(self, given: tuple[Tensor, ...]) -> Pass | None:
        """A graph for tensors of these shapes that has been seen to be right."""
        like = tuple(one.detach().clone().requires_grad_(one.requires_grad) for one in given)
        try:
            right = not self._run(*(one.detach() for one in given)).requires_grad  # else a hook has weights that are trained
            graph = self._record(self._run, like) if right else self._run
            right = right and _agree(graph, self._run, given)
        except Exception:  # what cannot be recorded says so in a hundred ways, and runs as it is
            right = False
        if not right:
            self.works = False
            self._graphs.clear()
            return None
        return graph


def _causal_mask(mask_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention's scores. Padding sees itself, for a row that sees nothing has no softmax."""
    columns = torch.arange(mask_BS.shape[1], device=mask_BS.device)
    seen_BSS = (columns[:, None] >= columns[None, :]) & mask_BS[:, None, :] | (columns[:, None] == columns[None, :])
    zeros_B1SS = torch.zeros(len(mask_BS), 1, *seen_BSS.shape[1:], dtype=dtype, device=mask_BS.device)
    return zeros_B1SS.masked_fill(~seen_BSS[:, None], torch.finfo(dtype).min)


class Recorder:
    """What makes CUDA graphs of passes. They share the memory of what is made on the way, for a pass has been there and back
    before the next one begins."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Pass, given: tuple[Tensor, ...]) -> Pass:
        """A graph of the pass, and of its way back to the embeddings."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", lambda _: None)
        warn(False)  # passes before the recording run on a stream of their own, as torch wants it
        try:
            graph: Any = torch.cuda.make_graphed_callables(run, given, pool=self._pool)
        finally:
            warn(True)
        return graph  # type: ignore[no-any-return]


def _agree(graph: Pass, run: Pass, given: tuple[Tensor, ...]) -> bool:
    """Whether both give the same logits and gradient but for rounding."""
    found = []
    for one in (graph, run):
        leaf = given[0].detach().clone().requires_grad_()
        logits = one(leaf, *given[1:])
        (gradient,) = torch.autograd.grad(logits.float().logsumexp(-1).sum(), leaf)
        found.append((logits.detach().float().clone(), gradient.float().clone()))
    tolerance = 1e-4 if given[0].dtype == torch.float32 else 3e-2
    return all(
        bool((ours - plain).norm() <= tolerance * plain.norm().clamp_min(1e-6)) for ours, plain in zip(*found, strict=True)
    )
