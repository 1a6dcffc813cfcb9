"""The base of a version, loaded as the version was tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.library.binding import options_for
from softprompt.lifecycle.remake import named_base
from softprompt.progress import Progress
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Version

if TYPE_CHECKING:
    from softprompt.library.library import Library


def load_base(library: Library, version: Version, base: BaseLike, progress: Progress) -> FrozenBase:
    """A base that is given, if it is loaded already; else that of a version, by the options that are given and, where those
    are silent, as its task file loads it.

    Raises:
        BaseModelError: it is not there.
    """
    if isinstance(base, FrozenBase):
        return base
    options = options_for(version, BaseOptions.of(base), named_base(library, version))
    return base_of(options, options, progress)


def load_pair(library: Library, version: Version, base: BaseLike, progress: Progress) -> tuple[FrozenBase, SoftPrompt]:
    """The same, and the prompt of the version, which is of that base.

    Raises:
        BaseModelError, StoreError: one is not there.
        FingerprintMismatch: it is another base.
    """
    loaded = load_base(library, version, base, progress)
    prompt = SoftPrompt.from_bytes(library.read(version), digest=version.digest)
    prompt.check_base(loaded)
    return loaded, prompt
