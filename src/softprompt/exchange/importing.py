"""Taking prompts of other programs and libraries into a library: checked as trained ones are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.files.locate import is_gone, two_forms
from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, FingerprintMismatch, PromptFileError, SoftPromptError
from softprompt.exchange.card_file import read_adapter_file
from softprompt.exchange.changes import Changes
from softprompt.exchange.elsewhere.read import read_elsewhere, tool_of
from softprompt.library.filling import ToFill
from softprompt.names import check_new_task, check_tags, check_task
from softprompt.prompts.file import read_file, write_file
from softprompt.tasks.config.config import OF_LABELS
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.prompts.card import Card
    from softprompt.registry.records import Version

Warn = Callable[[str], object]


@dataclass(frozen=True)
class Imported:
    """What became of one of several sources: a version, or an error."""

    source: Path
    task: str | None
    """The task that was asked for; None where a softprompt file names its own."""
    version: Version | None = None
    error: SoftPromptError | None = None


def import_prompt(
    library: Library | ToFill,
    source: str | Path,
    *,
    task: str | None = None,
    base: BaseOptions | str | None = None,
    like: str | None = None,
    input: str | None = None,
    target: str | None = None,
    labels: Sequence[str] | None = None,
    tags: Iterable[str] = (),
    warn: Warn | None = None,
) -> Version:
    """Publish a prompt of elsewhere as a new version of a task.

    Its scores come with it, unless its template, labels or metric are changed: then they were those of another task. It is
    checked as a trained one is, and a PEFT folder is taken whole or refused.

    Args:
        library: where it goes, or what makes that once nothing is refused.
        source: a PEFT folder, as vLLM's prompt adapters were, or a softprompt file; a folder of caikit's or TGIS's, or a
            model of NeMo's prompt learning.
        task: the task it becomes a version of; by default the one that a softprompt file names.
        base: the base it was tuned on, and how to load it; by default what the folder or the file names.
        like: a version of the library whose template, labels and metric it takes over, and what else its card says of how
            it is asked.
        input, target, labels: its template and labels, as in a task file; they go over `like`.
        tags: of the version.
        warn: hears of what nothing proves, such as a base by another name than a PEFT folder's.

    Raises:
        ConfigError: no task is named, or the template or the labels could never answer.
        PromptFileError: the source is no such thing, is damaged, or is more than a prompt.
        BaseModelError: the base of a PEFT folder cannot be loaded, or has no room for it.
        FingerprintMismatch: it was tuned on another base.
        LibraryError: a name is refused, `like` is not there, or the library fails.
    """
    fill = ToFill.of(library)
    changes = Changes.of(fill.there, like, input=input, target=target, labels=labels)
    return _Importer(fill, BaseOptions.of(base), changes, tuple(tags), warn).take(Path(source), task)


def import_prompts(
    library: Library | ToFill,
    sources: Sequence[str | Path],
    *,
    tasks: Sequence[str] = (),
    base: BaseOptions | str | None = None,
    like: str | None = None,
    input: str | None = None,
    target: str | None = None,
    labels: Sequence[str] | None = None,
    tags: Iterable[str] = (),
    warn: Warn | None = None,
) -> Iterator[Imported]:
    """Publish several prompts, each a version of its own as by :func:`import_prompt`; one that fails leaves the others. A
    base that follows itself is loaded once.

    Args:
        tasks: one that all become versions of, or one for each; by default a PEFT folder's is called as the folder is.

    Raises:
        ConfigError: before anything is done: another number of tasks, or two folders of one name without a task for each;
            the template or the labels could never answer.
        LibraryError: before anything is done: `like` is not there.
    """
    paths = [Path(source) for source in sources]
    named = tasks_of(paths, tasks)
    fill = ToFill.of(library)
    changes = Changes.of(fill.there, like, input=input, target=target, labels=labels)
    importer = _Importer(fill, BaseOptions.of(base), changes, tuple(tags), warn)

    def take() -> Iterator[Imported]:
        for path, task in zip(paths, named, strict=True):
            try:
                yield Imported(path, task, importer.take(path, task))
            except SoftPromptError as error:
                yield Imported(path, task, error=error)

    return take()


def tasks_of(sources: Sequence[Path], tasks: Sequence[str]) -> list[str | None]:
    """The task of each source: the one that is given for all, those given for each, or the names of the folders.

    Raises:
        ConfigError: another number of tasks than of sources, or two folders of one name.
    """
    if len(tasks) == 1 or len(tasks) == len(sources):
        return [*tasks] * (len(sources) // len(tasks))
    if tasks:
        raise ConfigError(
            f"{plural(len(tasks), 'task')} for {plural(len(sources), 'prompt')}; name one for all, or one for each in order"
        )
    if len(sources) == 1:
        return [None]
    named = [
        source.resolve().name if source.is_dir() else source.stem if tool_of(source) is not None else None
        for source in sources
    ]
    for name in named:
        if name is not None and named.count(name) > 1:
            one, other, *_ = (str(source) for source, its in zip(sources, named, strict=True) if its == name)
            raise ConfigError(
                f"{one!r} and {other!r} would both become the task {name!r}; name a task for each, or one for all of them"
            )
    return named


class _Importer:
    """Takes prompts into a library, one after the other, with the base of the last one at hand."""

    def __init__(self, fill: ToFill, base: BaseOptions, changes: Changes, tags: tuple[str, ...], warn: Warn | None) -> None:
        self._fill, self._base, self._changes, self._tags, self._warn = fill, base, changes, check_tags(tags), warn
        self._loaded: tuple[BaseOptions, FrozenBase] | None = None

    def take(self, path: Path, task: str | None) -> Version:
        """Publish one; raises as `import_prompt` does."""
        task = None if task is None else check_new_task(task)
        tool = tool_of(path)
        if tool is None and not path.is_dir():
            data, address = _from_file(self._fill.there, path, task, self._changes, self._base, self._warn)
        elif task is None:
            raise ConfigError(f"{str(path)!r} is of {tool or 'PEFT'}, which names no task of ours; give one")
        elif tool is not None:
            data, address = self._from_elsewhere(path, task)
        else:
            data, address = self._from_peft(path, task)
        return self._fill.made().publish(data, base=address, tags=self._tags)

    def _from_peft(self, folder: Path, task: str) -> tuple[bytes, str]:
        """The prompt file that a PEFT folder becomes, and its base as named."""
        read_adapter_file(folder)  # which needs no torch
        from softprompt.exchange.peft import check_fits, load_peft
        from softprompt.exchange.peft_config import read_peft_config

        config = read_peft_config(folder)

        base = self._load(_base_of_adapter(config, folder, self._base))
        prompt = load_peft(folder, task=task, base=base, warn=self._warn)
        card = self._changes.made(prompt.card, task)
        if "imported" in card.recipe and card.labels is None and card.metric in OF_LABELS:
            card = card.changed({"metric": "exact_match"})  # one of elsewhere has no metric; this one generates
        prompt = replace(prompt, card=card)
        check_fits(prompt, base)
        return prompt.to_bytes(), base.address

    def _from_elsewhere(self, source: Path, task: str) -> tuple[bytes, str]:
        """The prompt file that the files of another tool become, and its base as named."""
        taken = read_elsewhere(source, task)
        from softprompt.exchange.elsewhere.prompt import prompt_of
        from softprompt.exchange.peft import check_fits

        named = self._base.source or taken.base
        if named is None:
            raise PromptFileError(f"{str(source)!r} names no base that can be loaded; give it with --base ID")
        base = self._load(BaseOptions.of(self._base, source=named))
        prompt = prompt_of(taken, task, base, source)
        if self._warn is not None:
            self._warn(
                f"nothing in {str(source)!r} proves that it was tuned on {base.name}: that is taken from you or its config"
            )
        card = self._changes.made(prompt.card, task)
        if card.labels is None and card.metric in OF_LABELS:
            card = card.changed({"metric": "exact_match"})
        prompt = replace(prompt, card=card)
        check_fits(prompt, base)
        return prompt.to_bytes(), base.address

    def _load(self, options: BaseOptions) -> FrozenBase:
        from softprompt.bases.base import FrozenBase

        if self._loaded is None or self._loaded[0] != options:
            self._loaded = None  # two need not fit
            self._loaded = options, FrozenBase.load(options)
        return self._loaded[1]


_NO_BASE = "this-is-a/temporary-conversion"
"""What vllm-tgis-adapter wrote as the base of adapters that it made of caikit's files."""


def _base_of_adapter(config: Mapping[str, Any], folder: Path, given: BaseOptions) -> BaseOptions:
    """The base to load for an adapter: the one that is given, else the one that its config names, at the revision there.

    Raises:
        PromptFileError: neither names one.
    """
    from softprompt.bases.files.locate import BUILTIN

    named = config.get("base_model_name_or_path")
    source = given.source or named
    if not isinstance(source, str) or not source or source == _NO_BASE:
        raise PromptFileError(f"the adapter in {str(folder)!r} names no base; give it with --base ID")
    revision = given.revision
    if (
        source == named
        and revision is None
        and config.get("revision") is not None
        and not Path(os.path.expanduser(source)).exists()
    ):
        revision = str(config["revision"])
    for name, path in BUILTIN.items():
        if Path(source).is_dir() and Path(source).resolve() == path.resolve():
            source = name
    return BaseOptions.of(given, source=source, revision=revision)


def address_of(library: Library | None, source: str, card: Card, base: BaseOptions, warn: Warn | None) -> str:
    """Where the base of a prompt file is, which names it by its public name alone: where it is said to be, if it is that
    one; else as the library has it, by its fingerprint; else by that name.

    Args:
        library: what knows bases; None where there is none yet.
        source: what the prompt came in, for messages.
        card: the prompt's.
        base: the base that is said to be it, where one is; what else it says (an adapter, a revision, code) is to be true of
            the one that is found.
        warn: hears where nothing tells the place.

    Raises:
        FingerprintMismatch: the base is another one.
        BaseModelError: it is not there, or is none.
    """
    if base.source is None:
        counts = library.registry.bases() if library is not None else []
        known = [count.base for count in counts if count.fingerprint == card.fingerprint]
        here = [address for address in known if not is_gone(address)]
        address = card.base if card.base in here or not here else here[0]
        if is_gone(address) and warn is not None:
            warn(
                f"{source!r} names {card.base!r} as its base, and nothing here tells where that is; give it with --base, "
                "or later with `softprompt library rebind PLACE --yes`"
            )
        if base == BaseOptions.of(base, adapter=None, trust_remote_code=False, revision=None):
            return address
        base = BaseOptions.of(base, source=address)  # what is said of it is to be true of it
    from softprompt.library.binding import prove

    proof = prove(base)
    if card.fingerprint not in proof.names:
        raise FingerprintMismatch(
            f"{source!r} was tuned on {card.exact_base} ({card.fingerprint}){card.adapter_hint}, and {base.shown!r} is "
            f"{proof.fingerprint}{two_forms(card.base, base.address)}; give the base it was tuned on"
        )
    return proof.address


def _from_file(
    library: Library | None, path: Path, task: str | None, changes: Changes, base: BaseOptions, warn: Warn | None
) -> tuple[bytes, str]:
    """A prompt file, its card changed as asked, and its base as named."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptFileError(
            f"{str(path)!r} cannot be read ({error.strerror}); give a PEFT folder or a softprompt file"
        ) from None
    if data[:4] == b"PK\x03\x04":
        raise PromptFileError(
            f"{str(path)!r} is an archive and no prompt file; a bundle is taken in by `softprompt unbundle`"
        )
    try:
        card, tensors = read_file(data)
        from softprompt.prompts.prompt import SoftPrompt  # which reads the numbers, and so needs torch

        SoftPrompt.from_bytes(data)
    except PromptFileError as error:
        raise PromptFileError(f"{str(path)!r}: {error}") from None
    changed = changes.made(card, task)
    check_task(changed.task)
    if changed != card:
        data = write_file(changed, tensors)
        SoftPrompt.from_bytes(data)
    return data, address_of(library, str(path), card, base, warn)
