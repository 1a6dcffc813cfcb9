"""Which base a server runs: the one that most tasks of its library are made for. No torch."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from softprompt.bases.fingerprint import fingerprints_of_folder
from softprompt.bases.locate import BUILTIN, is_local, locate
from softprompt.errors import BaseModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from softprompt.library.library import Library
    from softprompt.registry.records import BaseCount

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
    same = _same_base(counts)
    tasks: Counter[str] = Counter()
    for count in counts:  # one base may have several addresses
        tasks[same[count.fingerprint]] += count.tasks
    ((fingerprint, most), *others) = tasks.most_common()
    chosen = next(count.base for count in counts if same[count.fingerprint] == fingerprint)
    if not others:
        return chosen, None
    rest = [
        f"{next(count.base for count in counts if same[count.fingerprint] == other)} ({number} tasks)"
        for other, number in others
    ]
    mine = [entry.task for entry in library.registry.tasks() if same.get(entry.fingerprint) != fingerprint]
    lost = f": {', '.join(mine[:_SHOWN])}{', ...' if len(mine) > _SHOWN else ''}" if mine else ""
    return chosen, (
        f"the library's tasks are made for {len(tasks)} bases; {chosen} ({most} tasks) is served, and not "
        f"{', '.join(rest)}{lost}; choose another with --base"
    )


def _same_base(counts: Sequence[BaseCount]) -> dict[str, str]:
    """For each fingerprint the one that stands for its base: a base has one by each rule, and the registry may have both.
    Only where an address has several is that base read."""
    same = {count.fingerprint: count.fingerprint for count in counts}
    by_address: dict[str, list[str]] = {}
    for count in counts:
        by_address.setdefault(count.base, []).append(count.fingerprint)
    for address, found in by_address.items():
        if len(found) > 1 and is_local(address):
            try:
                names = fingerprints_of_folder(locate(address))
            except (BaseModelError, OSError):  # where it is chosen, loading it says what is wrong
                continue
            same |= dict.fromkeys(names & set(found), min(names & set(found), default=""))
    return same
