"""Which base a server runs: the one that most tasks of its library are made for. No torch."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from softprompt.bases.locate import BUILTIN

if TYPE_CHECKING:
    from softprompt.library.library import Library

_SHOWN = 10


def choose_base(library: Library) -> tuple[str, str | None]:
    """The base with the most tasks, of all tenants; the built-in one for an empty library. With a warning where not
    everything is served then.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    counts = library.registry.bases()
    if not counts:
        return next(iter(BUILTIN)), None
    tasks: Counter[str] = Counter()
    for count in counts:  # one base may have several addresses
        tasks[count.fingerprint] += count.tasks
    ((fingerprint, most), *others) = tasks.most_common()
    chosen = next(count.base for count in counts if count.fingerprint == fingerprint)
    if not others:
        return chosen, None
    rest = [
        f"{next(count.base for count in counts if count.fingerprint == other)} ({number} tasks)" for other, number in others
    ]
    mine = [entry.task for entry in library.registry.tasks() if entry.fingerprint != fingerprint]
    lost = f": {', '.join(mine[:_SHOWN])}{', ...' if len(mine) > _SHOWN else ''}" if mine else ""
    return chosen, (
        f"the library's tasks are made for {len(tasks)} bases; {chosen} ({most} tasks) is served, and not "
        f"{', '.join(rest)}{lost}; choose another with --base"
    )
