"""A base behind keys and values that were trained as such, where a prompt's would stand.

Shapes: K prompts, P virtual tokens.
"""

from __future__ import annotations

from functools import cached_property

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.model.causal import Causal
from softprompt.model.prefix import Prefix
from softprompt.model.splice import Stack


class GivenPrefix(Causal):
    """An :class:`~softprompt.model.architecture.Architecture` that knows one prompt, whose vectors count for nothing but
    their number."""

    def __init__(self, base: FrozenBase, prefix: Prefix) -> None:
        """
        Raises:
            BaseModelError: rows on this base cannot stand behind keys and values.
        """
        super().__init__(base)
        self._prefix, self._plain = prefix, Causal(base)
        if not self._plain.shares_prefix:
            raise BaseModelError(f"{base.name} takes no keys and values of a prefix; leave out peft_prefix_tuning")

    shares_prefix = True

    @cached_property
    def lines_agree(self) -> bool:
        return self._plain.lines_agree

    def compute_prefix(self, stack: Stack) -> Prefix:
        count = len(stack.lengths_K)
        return Prefix(
            [(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1)) for keys, values in self._prefix.layers]
        )
