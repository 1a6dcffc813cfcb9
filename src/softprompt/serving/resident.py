"""A resident: one prompt in memory, ready to serve on its base.

Shapes: P virtual tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.engines.protocol import Vectors
from softprompt.errors import FingerprintMismatch
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.form import Form

if TYPE_CHECKING:
    from torch import Tensor

    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.model.label_scores import Labels
    from softprompt.registry.records import Version


@dataclass(frozen=True)
class Resident:
    """A prompt ready to serve on its base."""

    task: str
    version: int
    digest: str
    form: Form
    vectors: Vectors
    """In the base's dtype, on its device."""
    labels: Labels | None
    """Token ids of the form's labels; None for a task that generates."""

    @property
    def ref(self) -> str:
        """What names this version for good: `task@3`."""
        return f"{self.task}@{self.version}"

    @property
    def tensor(self) -> Tensor:
        """The virtual tokens, P x D."""
        assert self.vectors.vectors_PD is not None
        return self.vectors.vectors_PD

    @property
    def bytes(self) -> int:
        """Of the vectors."""
        return self.tensor.numel() * self.tensor.element_size()


def load_resident(library: Library, version: Version, base: FrozenBase) -> Resident:
    """Read a version's prompt, check it, and make it ready for a base.

    Raises:
        FingerprintMismatch: made for another base.
        NotFound, StoreError, PromptFileError: its blob is gone, unreachable or damaged.
        DataError: its labels cannot be told apart on this base.
    """
    if version.fingerprint not in base.fingerprints:  # before anything is read
        raise FingerprintMismatch(
            f"{version.ref} was made for base {version.card.base} with fingerprint {version.fingerprint}, and {base.name} "
            f"with fingerprint {base.fingerprint} is served; ask for a version on this base, or serve the other one"
            f"{version.card.adapter_hint}"
        )
    prompt = SoftPrompt.from_bytes(library.read(version), digest=version.digest)
    prompt.check_base(base)
    form = Form.of_card(prompt.card)
    vectors = Vectors(version.digest, prompt.vectors_PD.to(base.device, base.dtype))
    labels = form.encode_labels(base) if form.labels else None
    return Resident(version.task, version.number, version.digest, form, vectors, labels)
