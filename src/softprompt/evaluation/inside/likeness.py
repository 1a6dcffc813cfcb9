"""How like each other the soft prompts of a library are, by the two measures of SPoT for related tasks (Vu et al. 2022).

Prompts of one base alone have a common space. That two are alike tells of where they started as much as of what they do.

Shapes: N prompts, P virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softprompt.errors import ConfigError
from softprompt.library.library import library_or_current
from softprompt.progress import Progress, Silent
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Record, Version

if TYPE_CHECKING:
    from softprompt.library.library import Library


@dataclass(frozen=True)
class Likeness(Record):
    """How like each other two prompts are."""

    task: str
    version: int
    other: str
    """The other task."""
    other_version: int
    cosine: float
    """Of the mean vectors of the two."""
    per_token: float
    """The mean over all pairs of a vector of one and a vector of the other of their cosine."""
    base: str
    """The base of both."""


@dataclass(frozen=True)
class Drawn:
    """A soft prompt of the library, as it is compared and drawn."""

    version: Version
    vectors_PD: Tensor

    @property
    def mean_D(self) -> Tensor:  # noqa: N802
        """Its mean vector."""
        return self.vectors_PD.mean(0)

    @property
    def directions_D(self) -> Tensor:  # noqa: N802
        """The mean of its vectors, each made as long as 1."""
        return torch.nn.functional.normalize(self.vectors_PD, dim=1).mean(0)


def likenesses(
    ref: str | None = None, *, library: Library | None = None, progress: Progress | None = None
) -> list[Likeness]:
    """How like each other the soft prompts of a library are, the most alike first: a row for each pair of tasks whose
    prompts are of one base. Of a task that is what its name alone means.

    Args:
        ref: TASK, TASK@N or TASK@ALIAS, for its pairs alone.
        library: by default the one in the current home.

    Raises:
        NotFound: there is no such version.
        ConfigError: it is no single soft prompt.
    """
    with library_or_current(library) as opened:
        prompts = read_prompts(opened, ref, progress or Silent())
    pairs = [
        (one, other)
        for place, one in enumerate(prompts)
        for other in prompts[place + 1 :]
        if one.version.fingerprint == other.version.fingerprint and (ref is None or place == 0)
    ]
    found = [Likeness(*_named(one, other), *compared(one, other), one.version.base) for one, other in pairs]
    return sorted(found, key=lambda pair: (-pair.per_token, pair.task, pair.other))


def _named(one: Drawn, other: Drawn) -> tuple[str, int, str, int]:
    return one.version.task, one.version.number, other.version.task, other.version.number


def compared(one: Drawn, other: Drawn) -> tuple[float, float]:
    """The two measures of two prompts."""
    cosine = torch.nn.functional.cosine_similarity(one.mean_D, other.mean_D, dim=0)
    return round(float(cosine), 4), round(float(one.directions_D @ other.directions_D), 4)


def read_prompts(
    library: Library, ref: str | None, progress: Progress, *, tasks: Sequence[str] | None = None
) -> list[Drawn]:
    """The soft prompt that each task of a library means, by name; that of `ref` first, where one is named, in the place of
    its task's. What has no vectors of one place (prefixes, ensembles) is left out, and said. `tasks` are all by default.

    Raises:
        NotFound, ConfigError: as :func:`likenesses`.
    """
    registry = library.registry
    first = None if ref is None else registry.resolve(ref)
    known = [entry.task for entry in registry.tasks()] if tasks is None else tasks
    names = [name for name in known if first is None or name != first.task]
    versions = ([first] if first is not None else []) + [registry.resolve(name) for name in names]
    found, left = list[Drawn](), list[str]()
    with progress.stage("read", len(versions)) as advance:
        for version in versions:
            if version.card.members or version.card.prompt_type != "soft":
                left.append(version.ref)
            else:
                prompt = SoftPrompt.from_bytes(library.read(version), digest=version.digest)
                found.append(Drawn(version, prompt.vectors_PD.float()))
            advance(1, "")
    if first is not None and first.ref in left:
        raise ConfigError(f"{first.ref} is no single soft prompt, and prefixes and ensembles are like none; name another")
    if left:
        shown = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        progress.note(f"left out, being no single soft prompts: {shown}")
    return found


def positions(vectors_ND: Sequence[Tensor]) -> tuple[Tensor, list[float]]:
    """Points of a plane for vectors, N x 2, by their principal components; and the shares of their variance that the two
    axes keep. A component points to where the first vector that is off its zero lies."""
    stacked_ND = torch.stack(list(vectors_ND)).double()
    centred_ND = stacked_ND - stacked_ND.mean(0)
    left_NK, sizes_K, _ = torch.linalg.svd(centred_ND, full_matrices=False)
    points_N2 = torch.nn.functional.pad(left_NK * sizes_K, (0, 2))[:, :2]
    for axis in range(2):
        off = points_N2[points_N2[:, axis].abs() > 1e-9 * (1 + float(sizes_K[0])), axis]
        if len(off) and off[0] < 0:
            points_N2[:, axis] *= -1
    whole = float((sizes_K**2).sum())
    shares = [float(size) ** 2 / whole if whole else 0.0 for size in sizes_K[:2]]
    return points_N2, [*shares, 0.0][:2]
