"""The seam: what training, evaluation and engines ask of a base behind soft prompts, and nothing else.

Shapes: K prompts, P virtual tokens, B rows, T tokens, S columns, N results of all rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.bases.head import Head
from softprompt.model.kinds.causal import Causal
from softprompt.model.kinds.encoder import MaskedEncoder
from softprompt.model.kinds.encoder_decoder import EncoderDecoder
from softprompt.model.kinds.headed_encoder import HeadedEncoder
from softprompt.model.kinds.invariant import Invariant
from softprompt.model.lines import Ids, Tails
from softprompt.model.prefix import Layout, Prefix
from softprompt.model.splice import Stack


class Architecture(Protocol):
    """One kind of model, with soft prompts in front of its inputs.

    What it finds out about its base it finds out once, so whoever runs a base more than once keeps its architecture.
    """

    base: FrozenBase

    def embed(self, inputs: Sequence[Ids], prompts: Sequence[Tensor] | None = None) -> Tensor:
        """What the base makes of inputs: the mean over their tokens of its last hidden states, N x D float32 on the CPU, a
        row for each input on its own.

        Args:
            inputs: token ids, at least one each, within the context.
            prompts: of a causal base, vectors P x D that stand before each; none by default.
        """

    @property
    def origin_D(self) -> Tensor:  # noqa: N802
        """The mean embedding of :func:`~softprompt.model.embedding.single_tokens`, a property of the base alone."""

    @property
    def shares_prefix(self) -> bool:
        """Whether prompts can be run once for all rows behind them. Where they cannot, :meth:`compute_prefix` and
        :meth:`run_cached` are never asked."""

    @property
    def layout(self) -> Layout | None:
        """How the keys and values of a prefix lie in the row of a virtual token; None where none are taken."""

    @property
    def head(self) -> Head | None:
        """How a head lies behind the vectors of each prompt; None where answers are words."""

    def lays_lines(self, longest: int) -> bool:
        """Whether rows of up to `longest` tokens, virtual ones among them, are run without padding, each input once for all
        its tails; where not, they are run in rows of similar length, one for each tail."""

    def compute_prefix(self, stack: Stack) -> Prefix:
        """Run K prompts alone and keep what rows behind them need; of prefixes, which are that already, give views.

        All are of one kind, which the width of the stack tells: soft prompts are as wide as an embedding.

        Raises:
            BaseModelError: nothing was kept, as in train mode with the library's gradient checkpointing; rows behind the
                prompts would run without them. Or prefixes are of another layout than the base's.
        """

    def logits_behind(
        self, stack: Stack, prefix: Prefix | None, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> Tensor:
        """Logits N x V, in the base's dtype: of each row those behind its input, which predict the first token of every
        tail, and then those behind each token of each tail; all rows' end to end.

        Args:
            prefix: of the stack; None to run each row with its whole prompt.
            which: the prompt of each row.
            inputs: token ids, at least one each.
            tails: of each row, continuations of its input that do not see each other.
        """

    def run_cached(self, ids_BT: Tensor, positions_BT: Tensor, cache: Any, mask_BS: Tensor) -> Tensor:
        """Run tokens behind what a cache holds, and put them into it; logits (B x V) behind the last.

        Args:
            cache: a transformers cache of all columns before the tokens.
            mask_BS: which columns are attended to, the tokens' own among them.
        """


def architecture_of(base: FrozenBase) -> Architecture:
    """How a base is run, by its task type."""
    if base.task_type == "SEQ_2_SEQ_LM":
        return EncoderDecoder(base)
    if base.task_type == "MASKED_LM":
        return MaskedEncoder(base)
    if base.task_type == "SEQ_CLS":
        return HeadedEncoder(base)
    return Invariant(base) if base.batch_invariant else Causal(base)


def within_one_owner(architecture: Architecture) -> Architecture:
    """For passes whose rows, and prompt, all belong to one owner, as a step of one prompt's training does: nobody is beside
    them, so they may be run together whatever the base is to hold to."""
    return Causal(architecture.base) if isinstance(architecture, Invariant) else architecture
