"""A resident: one prompt in memory, ready to serve on its base.

Shapes: P virtual tokens, D width.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from softprompt.bases.files.locate import two_forms
from softprompt.engines.protocol import Vectors
from softprompt.errors import FingerprintMismatch
from softprompt.library.passages import Passages
from softprompt.model.splice import with_front
from softprompt.prompts.card import TEMPERATURE, Card
from softprompt.prompts.prompt import SoftPrompt, members_of
from softprompt.tasks.answers.decision import Question
from softprompt.tasks.config.blocks import ServingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.model.label_scores import Labels
    from softprompt.registry.records import Version
    from softprompt.tasks.form import Form

_LOG = logging.getLogger(__name__)

CHATS = "{prompt}\nAnswer:"
"""The template that uploads of chats get where the request has none."""


@dataclass(frozen=True)
class Resident:
    """A prompt ready to serve on its base."""

    task: str
    version: int
    digest: str
    form: Form
    vectors: Vectors
    """In the base's dtype, on its device, behind what stands before them in every input. Of an ensemble all members',
    each so, end to end, which no engine gets."""
    labels: Labels | None
    """Token ids of the form's labels; None for a task that generates."""
    wishes: ServingConfig = field(default_factory=ServingConfig)
    """How its task file wishes it to be served."""
    lengths: tuple[int, ...] = ()
    """Of an ensemble, the columns of each member."""
    user: str | None = None
    """Whose it is, where it is a user's own."""
    front: int = 0
    """Tokens that stand before the vectors, each member's of an ensemble, in every input."""
    head: int = 0
    """Last rows of the vectors that are the numbers of a head, and no columns."""
    temperature: float = 1.0
    """What decisions divide its labels' scores by: the one that fitted its validation rows, or 1 where none was fitted."""
    question: Question | None = None
    """The one that it was tuned to answer, where its task file held one."""

    def behind(self, base: FrozenBase, front: Sequence[int]) -> tuple[Vectors, ...]:
        """The members with what stands before them in an input: for most prompts the same for all. Where columns stand
        there, each such text makes a prompt of its own, which shares nothing with others."""
        if not self.form.front_varies or not front:
            return self.members
        behind = []
        for member in self.members:
            name = hashlib.sha256(repr((member.digest, tuple(front))).encode()).hexdigest()
            behind.append(Vectors(name, with_front(base, front, member.on(base))))
        return tuple(behind)

    @property
    def ref(self) -> str:
        """What names this version for good: `task@3`; a user's own `task~user@1`, which is no reference."""
        task = self.task if self.user is None else f"{self.task}~{self.user}"
        return f"{task}@{self.version}"

    @property
    def reads_conversations(self) -> bool:
        """Whether it was tuned on whole chats, as uploads of `messages` are."""
        if self.wishes.chat_input is None:
            return self.form.input.text == CHATS  # tuned before that was kept
        return self.wishes.chat_input == "conversation"

    @property
    def looks_up(self) -> bool:
        """Whether passages are looked up for its inputs, which takes time."""
        return self.form.retriever is not None

    @cached_property
    def members(self) -> tuple[Vectors, ...]:
        """What engines get: the prompt, or each of an ensemble, whose answer is the mean of theirs."""
        if not self.lengths:
            return (self.vectors,)
        parts = members_of(self.tensor, self.lengths)
        return tuple(Vectors(f"{self.digest}/{place}", part) for place, part in enumerate(parts))

    @property
    def columns(self) -> int:
        """Columns that stand before an input at once."""
        return max(self.lengths, default=len(self.vectors)) - self.head

    @property
    def virtual_tokens(self) -> int:
        """Its own, all members' of an ensemble together."""
        return len(self.vectors) - self.front * len(self.members) - self.head

    @property
    def tensor(self) -> Tensor:
        """The virtual tokens, P x D."""
        assert self.vectors.vectors_PD is not None
        return self.vectors.vectors_PD

    @property
    def bytes(self) -> int:
        """Of the vectors."""
        return self.tensor.numel() * self.tensor.element_size()


def load_resident(library: Library, version: Version, base: FrozenBase, passages: Passages | None = None) -> Resident:
    """Read a version's prompt, check it, and make it ready for a base.

    Raises:
        FingerprintMismatch: made for another base.
        NotFound, StoreError, PromptFileError: its blob is gone, unreachable or damaged.
        DataError: its labels cannot be told apart on this base.
        ConfigError: what is named to find its passages cannot be read.
    """
    if version.fingerprint not in base.fingerprints:  # before anything is read
        raise FingerprintMismatch(
            f"{version.ref} was made for base {version.card.exact_base} with fingerprint {version.fingerprint}, and "
            f"{base.shown} with fingerprint {base.fingerprint} is served{two_forms(version.card.base, base.name)}; ask for "
            f"a version on this base, or serve the other one{version.card.adapter_hint}"
        )
    wishes = wishes_of(library, version)
    prompt = SoftPrompt.from_bytes(library.read(version), digest=version.digest)
    prompt.check_base(base)
    form = (passages or Passages()).form_of(library, version)
    front = form.encode_front(base, {}) if not form.front_varies else []
    members = [with_front(base, front, member_PD.to(base.device, base.dtype)) for member_PD in prompt.members]
    vectors = Vectors(version.digest, torch.cat(members) if len(members) > 1 else members[0])
    labels = form.encode_labels(base) if form.labels else None
    lengths = tuple(map(len, members)) if prompt.card.members else ()
    named, head = (version.task, version.number, version.digest), len(prompt.rows_PD) - len(prompt.vectors_PD)
    made = Resident(*named, form, vectors, labels, wishes, lengths, version.user, len(front), head)
    return replace(made, temperature=temperature_of(prompt.card), question=Question.of_card(prompt.card))


def as_version(resident: Resident, library: Library, version: Version, passages: Passages) -> Resident:
    """A prompt in memory as another version with equal bytes: what does not come from its bytes (its number, how it is
    served, where its passages are) is that version's.

    Raises:
        ConfigError: what is named to find its passages cannot be read.
        RegistryError: the registry fails.
    """
    form = passages.form_of(library, version) if resident.looks_up else resident.form
    wishes = wishes_of(library, version)
    return replace(resident, task=version.task, version=version.number, user=version.user, form=form, wishes=wishes)


def temperature_of(card: Card) -> float:
    """What calibrates a prompt's probabilities; 1, which changes nothing, where none was fitted."""
    found = card.recipe.get(TEMPERATURE)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return 1.0
    return float(found) if 0 < found < math.inf else 1.0


def wishes_of(library: Library, version: Version) -> ServingConfig:
    """The `serving:` block of the task file that a version was trained from; for a user's own what its task means now.

    Raises:
        RegistryError: the registry fails.
    """
    origin = library.registry.origin(version.ref if version.user is None else version.task)
    return ServingConfig() if origin is None else read_wishes(version.ref, origin.task_file)


def read_wishes(ref: str, task_file: Mapping[str, Any]) -> ServingConfig:
    """The `serving:` block of a resolved task file; nothing where it cannot be read, which the log says."""
    try:
        return ServingConfig.model_validate(task_file.get("serving") or {})
    except ValidationError as error:
        _LOG.warning("the serving: block of %s cannot be read, and goes by the defaults: %s", ref, error.errors()[0]["msg"])
        return ServingConfig()
