"""Which base a server runs: that of most tasks of its library; and what their files say of a server. No torch."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from softprompt.bases.files.fingerprint import fingerprints_of_folder
from softprompt.bases.files.locate import BUILTIN, is_gone, is_local, locate
from softprompt.errors import BaseModelError
from softprompt.names import hide_password
from softprompt.tasks.config.blocks import ServingConfig
from softprompt.text import plural

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
    addresses = [count.base for count in counts if same[count.fingerprint] == fingerprint]
    chosen = next((address for address in addresses if not is_gone(address)), addresses[0])
    if not others:
        return chosen, None
    rest = [
        f"{next(count.base for count in counts if same[count.fingerprint] == other)} ({plural(number, 'task')})"
        for other, number in others
    ]
    mine = [entry.task for entry in library.registry.tasks() if same.get(entry.fingerprint) != fingerprint]
    lost = f": {', '.join(mine[:_SHOWN])}{', ...' if len(mine) > _SHOWN else ''}" if mine else ""
    return chosen, (
        f"the library's tasks are made for {len(tasks)} bases; {chosen} ({plural(most, 'task')}) is served, and not "
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


@dataclass(frozen=True)
class Wishes:
    """What the `serving:` blocks of task files say of a whole server."""

    device: str | None
    """The one that all of them name."""
    prompts: int | None
    """The most that one of them wants in memory."""
    warnings: tuple[str, ...]
    """What they say and cannot have, key by key."""


def read_wishes(library: Library, base: str) -> Wishes:
    """How the task files behind the served prompts of a base, of all tenants, wish a server to be.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    said: dict[str, dict[str | int, list[str]]] = defaultdict(lambda: defaultdict(list))
    warnings = []
    for ref, block in library.registry.serving_wishes(base):
        try:
            wishes = ServingConfig.model_validate(block)
        except ValidationError as error:
            warnings.append(f"serving: the block of {ref} cannot be read ({error.errors()[0]['msg']}); it is left out")
            continue
        for key, value in wishes.model_dump(exclude_none=True).items():
            said[key][value].append(ref)
    devices = said["base_model_device"]
    if len(devices) > 1:
        named = ", ".join(f"{device} ({_some(refs)})" for device, refs in devices.items())
        warnings.append(f"serving.base_model_device: the task files name {named}, and a base has one; choose with --device")
    for url, refs in said["prompt_storage"].items():
        if not _same_store(str(url), library.store.shown):
            warnings.append(
                f"serving.prompt_storage: {_some(refs)} names {hide_password(str(url))}, and prompts are read from "
                f"{library.store.shown}; `softprompt library copy --store URL` brings them there, serve takes --store URL"
            )
    device = str(next(iter(devices))) if len(devices) == 1 else None
    return Wishes(device, max(map(int, said["prompt_cache_size"]), default=None), tuple(warnings))


def _some(refs: list[str]) -> str:
    return f"{', '.join(refs[:_SHOWN])}{', ...' if len(refs) > _SHOWN else ''}"


def _same_store(url: str, shown: str) -> bool:
    plain = hide_password(url).removeprefix("file://")
    return shown.rstrip("/") in (plain.rstrip("/"), os.path.abspath(plain))
