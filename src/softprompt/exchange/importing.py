"""Taking prompts of other programs and libraries into a library. No torch unless a PEFT folder is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, FingerprintMismatch, PromptFileError
from softprompt.names import check_new_task
from softprompt.prompts.file import read_file, write_file
from softprompt.tasks.config import parse_config
from softprompt.tasks.form import Form

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version


def import_prompt(
    library: Library,
    source: str | Path,
    *,
    task: str | None = None,
    base: BaseOptions | str | None = None,
    like: str | None = None,
    input: str | None = None,
    target: str | None = None,
    labels: Sequence[str] | None = None,
    tags: Iterable[str] = (),
) -> Version:
    """Publish a prompt of elsewhere as a new version of a task.

    Its scores come with it, unless its template, labels or metric are changed: then they were those of another task.

    Args:
        library: where it goes.
        source: a PEFT folder, or a softprompt file.
        task: the task it becomes a version of; by default the one that a softprompt file names.
        base: the base it was tuned on, and how to load it; by default what the folder or the file names.
        like: a version of the library whose template, labels and metric it takes over.
        input, target, labels: its template and labels, as in a task file; they go over `like`.
        tags: of the version.

    Raises:
        ConfigError: no task is named, or the template or the labels could never answer.
        PromptFileError: the source is no such thing, or is damaged.
        BaseModelError: the base of a PEFT folder cannot be loaded.
        FingerprintMismatch: it was tuned on another base.
        LibraryError: a name is refused, `like` is not there, or the library fails.
    """
    path = Path(source)
    given = {"input": input, "target": target, "labels": tuple(labels) if labels else None}
    form = {name: value for name, value in given.items() if value is not None}
    if form:  # refused where a task file would be: a prompt with a broken template could never answer
        Form.of_config(parse_config(form, where="import"))
    changes = (library.registry.resolve(like).card.form() if like is not None else {}) | form
    if task is not None:
        changes["task"] = check_new_task(task)
    options = BaseOptions.of(base)
    if not path.is_dir():
        data, address = _from_file(path, changes, options)
    elif task is None:
        raise ConfigError(f"{str(path)!r} is a PEFT folder, which names no task; give one")
    else:
        data, address = _from_peft(path, task, changes, options)
    return library.publish(data, base=address, tags=tags)


def _from_peft(folder: Path, task: str, changes: Mapping[str, Any], base: BaseOptions) -> tuple[bytes, str]:
    """The prompt file that a PEFT folder becomes, and its base as named."""
    from softprompt.bases.base import FrozenBase
    from softprompt.bases.locate import BUILTIN
    from softprompt.exchange.peft import load_peft, read_peft_config
    from softprompt.prompts.prompt import SoftPrompt

    config = read_peft_config(folder)
    named = base.source or config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise PromptFileError(f"the adapter in {str(folder)!r} names no base; give it with --base ID")
    if base.source is None and isinstance(config.get("revision"), str) and not Path(named).exists():
        named = f"{named}@{config['revision']}"
    for name, path in BUILTIN.items():
        if Path(named).is_dir() and Path(named).resolve() == path.resolve():
            named = name
    loaded = FrozenBase.load(base, source=named)
    prompt = load_peft(folder, task=task, base=loaded)
    return SoftPrompt(prompt.vectors_PD, prompt.card.changed(changes)).to_bytes(), loaded.address


def _from_file(path: Path, changes: Mapping[str, Any], base: BaseOptions) -> tuple[bytes, str]:
    """A prompt file, its card changed as asked, and its base as named."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptFileError(
            f"{str(path)!r} cannot be read ({error.strerror}); give a PEFT folder or a softprompt file"
        ) from None
    try:
        card, tensors = read_file(data)
    except PromptFileError as error:
        raise PromptFileError(f"{str(path)!r}: {error}") from None
    changed = card.changed(changes)
    if changed != card:
        data = write_file(changed, tensors)
    if base.source is None:
        return data, card.base
    from softprompt.bases.adapter import find_adapter
    from softprompt.bases.fingerprint import fingerprint_of_folder
    from softprompt.bases.locate import locate

    folder = locate(base.source)
    found = fingerprint_of_folder(folder, find_adapter(base.adapter) if base.adapter else None)
    if found != card.fingerprint:
        raise FingerprintMismatch(
            f"{str(path)!r} was tuned on {card.base} ({card.fingerprint}){card.adapter_hint}, and {base.shown!r} is "
            f"{found}; give the base it was tuned on"
        )
    return data, str(folder) if Path(base.source).expanduser().is_dir() else base.source
