"""Exporting prompts as tokens: a folder that transformers loads, and where the base is a GGUF file that file, too."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import FrozenBase, base_of
from softprompt.bases.devices import stored_dtype
from softprompt.bases.files.locate import locate
from softprompt.bases.folder import check_folder
from softprompt.bases.options import DEFAULT_BASE, BaseOptions
from softprompt.bases.reading import quiet
from softprompt.errors import BaseModelError, ConfigError, LibraryError
from softprompt.exchange.tokens.carried import Carried, carry
from softprompt.exchange.tokens.gguf_file import bytes_of, tied_in_llama, write_gguf
from softprompt.exchange.tokens.readme import readme_of
from softprompt.exchange.tokens.table import extend_model, table_scale
from softprompt.exchange.tokens.vocabulary import (
    Vocabulary,
    check_saved,
    extend_tokenizer,
    joins_of,
    label_ids,
    suppressed,
    vocabulary_of,
)
from softprompt.exchange.tokens.wording import INFO, chat_template, described, worded
from softprompt.library.binding import options_for
from softprompt.progress import Progress, Silent

if TYPE_CHECKING:
    from softprompt.library.library import Library

README, FILE = "README.md", "model.gguf"
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class TokensExported:
    """Prompts that were written as tokens of a base."""

    carried: tuple[Carried, ...]
    folder: Path
    vocabulary: Vocabulary
    file: Path | None
    """The GGUF file in it, where the base is one."""
    replaced: tuple[str, ...] = ()
    """Tasks of an earlier export there that this one has not."""


def export_tokens(
    library: Library,
    refs: Sequence[str],
    folder: str | Path,
    *,
    base: BaseOptions | str | None = None,
    gguf_alone: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> TokensExported:
    """Write a base with prompts as extra tokens: a folder that `AutoModelForCausalLM` and `AutoTokenizer` load, with a chat
    template, the texts that place each prompt, the cards and a README. Of a base that is a GGUF file that is written, too.

    It is written whole or not at all, over nothing but an earlier export of this kind. What transformers computes of the
    tokens is compared with what it computes of the vectors first.

    Args:
        library: where the prompts are.
        refs: `task`, `task@3` or `task@alias`, each of another task.
        folder: what is made.
        base: where the base is, and how it is loaded, where the versions do not say; its dtype is the folder's, `auto` as it
            is stored.
        gguf_alone: write the GGUF file and no folder for transformers.
        force: also over an export that has tasks which this one has not, or files beside it.
        progress: hears of it.

    Raises:
        NotFound: no such version, or its bytes are gone.
        ConfigError: a prompt cannot be tokens, a task is named twice, or the tokenizer cannot spell it.
        FingerprintMismatch: the prompts are of several bases, or the base is another.
        BaseModelError: the base cannot be loaded, or its model has no place for tokens.
        LibraryError: the folder holds something else, or cannot be written.
    """
    progress = progress or Silent()
    carried, target = carry(library, refs), Path(folder)
    options = _options(options_for(carried[0].version, BaseOptions.of(base)))
    lost = _in_the_way(target, carried, force=force)
    source = locate(options.source or DEFAULT_BASE, revision=options.revision, code=options.trust_remote_code)
    is_file = source.is_file()
    if gguf_alone and not is_file:
        raise ConfigError(f"the base of {carried[0].version.ref} is {options.shown!r} and no GGUF file; use --format tokens")
    if is_file and (why := _lost_in_a_file(source, options)) is not None:
        if gguf_alone:
            raise BaseModelError(f"{options.shown!r} {why}; use --format tokens, and serve the folder")
        progress.warn(f"{options.shown!r} {why}; the folder alone is written")
        is_file = False
    loaded = base_of(None, options, progress)
    for one in carried:
        one.prompt.check_base(loaded)
    vocabulary = vocabulary_of(loaded, carried)
    try:
        with _beside(target) as made:
            _write(made, target, loaded, carried, vocabulary, source if is_file else None, gguf_alone, progress)
    except OSError as error:
        raise LibraryError(f"cannot write to {str(folder)!r}: {error.strerror or error}; choose another folder") from error
    return TokensExported(tuple(carried), target, vocabulary, target / FILE if is_file else None, lost)


def _lost_in_a_file(source: Path, options: BaseOptions) -> str | None:
    """Why a base that is a GGUF file cannot be written as one, behind its name; None where it can."""
    if options.adapter is not None:  # the file is written from its own tensors, and the adapter is in those that were loaded
        return "is merged in memory, and a GGUF file would be the base without the adapter"
    return tied_in_llama(source)


def _options(options: BaseOptions) -> BaseOptions:
    """How the base is loaded: in the dtype that is written. Raises `ConfigError` where that is none."""
    if options.quantization is not None:
        raise ConfigError(
            f"quantization {options.quantization!r} is for running a base, and this one is written; leave it out"
        )
    if options.trust_remote_code:
        raise ConfigError(
            f"{options.shown!r} is run by code of its own, which a folder of another vocabulary cannot be given; serve its "
            "prompts with softprompt"
        )
    if options.dtype != "auto":
        return options
    path = locate(options.source or DEFAULT_BASE, revision=options.revision)
    return replace(options, dtype=str(stored_dtype(check_folder(path, options.address))).removeprefix("torch."))


def _in_the_way(folder: Path, carried: Sequence[Carried], *, force: bool) -> tuple[str, ...]:
    """Tasks of an earlier export that go. Raises `LibraryError` for what is not to be replaced."""
    if not folder.exists():
        return ()
    if not folder.is_dir():
        raise LibraryError(f"cannot write to {str(folder)!r}: it is a file; choose a folder")
    there = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if not there:
        return ()
    try:
        told = json.loads((folder / INFO).read_text(encoding="utf-8"))
        old, files = [*told["tasks"]], {*told.get("files", there)}
    except (OSError, ValueError, KeyError, TypeError):
        raise LibraryError(
            f"{str(folder)!r} holds {', '.join(there[:3])}{' and more' if len(there) > 3 else ''}, and a base with tokens "
            "needs a folder of its own; choose another folder"
        ) from None
    lost = tuple(task for task in old if task not in {one.task for one in carried})
    if lost and not force:
        raise LibraryError(
            f"{str(folder)!r} holds an export of {', '.join(lost[:3])}{' and more' if len(lost) > 3 else ''}, which would "
            "go; name them, too, choose another folder, or add --force"
        )
    others = [name for name in there if name not in files]
    if others and not force:
        raise LibraryError(
            f"{str(folder)!r} holds {', '.join(others[:3])}{' and more' if len(others) > 3 else ''} beside an export, which "
            "would go; take it elsewhere, choose another folder, or add --force"
        )
    return lost


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder that takes the place of another once it is whole."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    made, old = (folder.parent / f".{folder.name[:200]}.{secrets.token_hex(4)}" for _ in range(2))
    made.mkdir()
    try:
        yield made
        if folder.exists():
            folder.rename(old)
        made.rename(folder)
    finally:
        if old.exists() and not folder.exists():  # stopped between the two
            old.rename(folder)
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write(
    made: Path,
    target: Path,
    base: FrozenBase,
    carried: Sequence[Carried],
    vocabulary: Vocabulary,
    source: Path | None,
    gguf_alone: bool,
    progress: Progress,
) -> None:
    tokenizer = extend_tokenizer(base, vocabulary)
    joins = joins_of(tokenizer, base, carried)
    labels = [label_ids(base, one) for one in carried]
    told = described(carried, joins, labels, vocabulary.first)
    # llama.cpp puts a word mark behind a token, too, where it puts one before a text: nothing need stand between.
    apart = source is not None and any(joins)
    if apart:
        for one in carried:
            told["tasks"][one.task]["input_gguf"] = worded(one, "")
    prompts = [one.prompt.vectors_PD for one in carried]
    scale, name = table_scale(base), target.name
    chat = chat_template(carried, joins)
    biased = getattr(base.model.get_output_embeddings(), "bias", None) is not None
    extend_model(base, prompts, vocabulary.rows)  # which proves that tokens do what the vectors did, for a file alone, too
    if source is not None:
        import torch

        vectors = (torch.cat(prompts).float() / scale).numpy()
        with progress.stage("gguf", max(1, bytes_of(source) // _MEGABYTE)) as advance:
            held = 0

            def tell(count: int, what: str) -> None:
                nonlocal held
                held += count
                advance(held // _MEGABYTE, what)
                held %= _MEGABYTE

            template = chat_template(carried, [""] * len(carried)) if apart else chat
            write_gguf(source, made / FILE, vectors, vocabulary.names, chat_template=template, advance=tell)
    if not gguf_alone:
        with progress.stage("write", 1) as advance:
            _save(base, tokenizer, chat, made, vocabulary)
            advance(1, name)
    text = readme_of(
        carried, joins, vocabulary, biased=biased, chats=chat is not None, folder=None if gguf_alone else name,
        file=FILE if source is not None else None, apart=apart,
    )  # fmt: skip
    (made / README).write_text(text, encoding="utf-8")
    told["files"] = sorted([*os.listdir(made), INFO])
    (made / INFO).write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _save(base: FrozenBase, tokenizer: Any, chat: str | None, folder: Path, vocabulary: Vocabulary) -> None:
    import transformers

    settings, ends = copy.deepcopy(base.model.generation_config), sorted(base.end_ids)
    kept = getattr(settings, "suppress_tokens", None)
    base.model.generation_config = transformers.GenerationConfig()
    with quiet():
        base.model.save_pretrained(folder)
        if chat is not None:
            tokenizer.chat_template = chat
        tokenizer.save_pretrained(folder)
        again = transformers.AutoTokenizer.from_pretrained(folder)
    check_saved(again, base)
    if again.convert_tokens_to_ids(list(vocabulary.names)) != [*vocabulary.ids]:
        raise BaseModelError(
            f"the tokenizer of {base.name} forgets new tokens when it is written; this base cannot carry them"
        )
    # No settings of sampling: the base's own may bend greedy answers, too (a repetition penalty), and prompts know none.
    written = {f"{role}_token_id": getattr(settings, f"{role}_token_id", None) for role in ("bos", "pad")}
    written |= {"eos_token_id": ends or None, "suppress_tokens": suppressed(kept, vocabulary)}
    (folder / "generation_config.json").write_text(
        json.dumps({key: value for key, value in written.items() if value is not None}, indent=1) + "\n"
    )
