"""Passages for inputs: what a retriever finds for a row's question, and an index over a folder of texts. No torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from softprompt.errors import ConfigError, DataError, reason_of
from softprompt.rows.places import Place, PlacedRows
from softprompt.rows.sources import Row
from softprompt.rows.values import is_missing, short
from softprompt.tasks.config.blocks import RetrieveConfig
from softprompt.tasks.wording.template import PASSAGES, Template, field_text, joined
from softprompt.text import parts_of, words_of

_CARD = ("query", "k", "words", "overlap")
"""Keys of the block that a card keeps."""

KINDS = (".md", ".txt")
"""Files of a folder that are read as texts; others are refused, hidden ones left out."""

Find = Callable[[str, int], Sequence[str]]
"""From a question and k to k passages at most, the best one first."""


def passages_of(text: str, words: int, overlap: int = 0) -> list[str]:
    """A text in passages of so many words, each on one line; the last one is what is left. None of it is left out. Of
    Chinese and Japanese each character is a word.

    Args:
        overlap: how many words of one passage the next begins with, fewer than `words`.
    """
    every = [(" " * (at == 0), part) for word in text.split() for at, part in enumerate(parts_of(word))]
    starts = range(0, max(1, len(every) - overlap), words - overlap) if every else ()
    return ["".join(space + part for space, part in every[start : start + words]).strip() for start in starts]


def read_folder(folder: Path) -> dict[str, str]:
    """The texts of a folder and the folders in it, by their names within it, in order.

    Raises:
        ConfigError: there is no such folder, it holds no text, or a file in it is none.
    """
    check_folder(folder)
    texts = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if not file.is_file() or any(part.startswith(".") for part in Path(name).parts):
            continue
        if file.suffix.lower() not in KINDS:
            raise ConfigError(f"retrieve: {str(file)!r} is no text ({', '.join(KINDS)}); take it out of the folder")
        try:
            texts[name] = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "reason", None) or getattr(error, "strerror", "")
            raise ConfigError(f"retrieve: {str(file)!r} is no UTF-8 text ({why}); mend it or take it out") from None
        if "\0" in texts[name]:
            raise ConfigError(f"retrieve: {str(file)!r} is no text, for it holds a zero byte; take it out of the folder")
    if not any(text.strip() for text in texts.values()):
        raise ConfigError(f"retrieve: the folder {str(folder)!r} holds no text; put files ({', '.join(KINDS)}) into it")
    return texts


def check_folder(folder: Path) -> None:
    """Raises ConfigError where there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"retrieve: there is no folder {str(folder)!r}; name a folder of texts ({', '.join(KINDS)})")


def load_function(address: str) -> Find:
    """The function at FILE.py:NAME; the file is run.

    Raises:
        ConfigError: there is none, or the file fails.
    """
    file, _, name = address.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"retrieve: {address!r} is no function; write FILE.py:NAME, such as find.py:find")
    if not Path(file).is_file():
        raise ConfigError(f"retrieve: there is no file {file!r} with the function {name!r}; mend the path")
    spec = importlib.util.spec_from_file_location(f"softprompt_retriever_{Path(file).stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is the user's own code
        raise ConfigError(
            f"retrieve: {file!r} cannot be run: {type(error).__name__}: {reason_of(error)}; mend it"
        ) from error
    found: Find | None = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"retrieve: {file!r} has no function {name!r}; define it there")
    return found


class Index:
    """Passages of texts, found by the cosine of their TF-IDF vectors with the question's: words in lower case, the logarithm
    of inverse document frequency smoothed, as scikit-learn has it. Of equal passages the earlier one comes first; those that
    share no word with the question are never found."""

    def __init__(self, texts: Mapping[str, str], words: int, overlap: int) -> None:
        """Cut texts into passages and weigh their words.

        Raises:
            ConfigError: scikit-learn is not installed, or no text has a word.
        """
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError:
            raise ConfigError("retrieve: an index needs scikit-learn; pip install 'softprompt[retrieve]'") from None
        self.passages = [passage for text in texts.values() for passage in passages_of(text, words, overlap)]
        self.digest = hashlib.sha256(json.dumps([[*texts.items()], words, overlap]).encode()).hexdigest()
        self._weigh = TfidfVectorizer(tokenizer=words_of, token_pattern=None)
        try:
            self._by_word = self._weigh.fit_transform(self.passages).T.tocsr()  # so that only a question's words are read
        except ValueError:
            raise ConfigError("retrieve: the folder's texts have no word; put others into it") from None

    def __call__(self, query: str, k: int) -> list[str]:
        """The k passages nearest to a question, the best first."""
        found = self._weigh.transform([query]) @ self._by_word
        best = sorted(zip((-found.data).round(9), found.indices, strict=True))[:k]
        return [self.passages[place] for score, place in best if score < 0]


@dataclass(frozen=True)
class Retriever:
    """What gives rows their passages."""

    settings: Mapping[str, Any]
    """What a card keeps of it: the template of the question and k; of a folder how its texts are cut and their digest; of a
    function its name."""
    find: Find | None = None
    """None where nothing is at hand."""
    address: str | None = None
    """The folder, or FILE.py:NAME, that it comes from."""
    missing: str = "the texts that this task looks them up in are not at hand"
    """Why there is nothing, where there is nothing."""

    @classmethod
    def make(cls, config: RetrieveConfig | None, find: Find | None, folder: Path, input_: Template) -> Retriever:
        """The retriever of a task file.

        Args:
            find: a Python function, in the place of what the file names.
            folder: where the file lies.

        Raises:
            ConfigError: the template has no place for passages, there is no or more than one way to find them, or what
                finds them is not there.
        """
        config = config or RetrieveConfig()
        others = [name for name in input_.fields if name != PASSAGES]
        if PASSAGES not in input_.fields:
            raise ConfigError(f"input: {short(input_.text, 200)} has no {{{PASSAGES}}}, which `retrieve` fills; add it")
        given = [one for one in (config.folder, config.function, find) if one is not None]
        if len(given) != 1:
            both = "none of them is given" if not given else "more than one is given"
            raise ConfigError(
                f"retrieve: a `folder`, a `function` or `retriever` in Python finds passages, and {both}; give one"
            )
        if config.query is None and len(others) != 1:
            raise ConfigError(
                f"retrieve: `query` is missing; write what is looked for, such as {{{(others or ['text'])[0]}}}"
            )
        if config.overlap >= config.words:
            raise ConfigError(
                f"retrieve: an overlap of {config.overlap} words needs longer passages than {config.words}; make it smaller"
            )
        query = config.query or f"{{{others[0]}}}"
        if not Template(query).fields or PASSAGES in Template(query).fields:
            raise ConfigError(
                f"retrieve: the query {short(query)} names no column, or {{{PASSAGES}}}; write one such as {{question}}"
            )
        asked = cls({"query": query, "k": config.k})
        if find is not None:
            return asked.over(find)
        if config.function is not None:
            return asked._over_function(_beside(config.function, folder))
        cut = {"words": config.words, "overlap": config.overlap}
        return cls({**asked.settings, **cut})._over_folder(_beside(str(config.folder), folder))

    @classmethod
    def of_card(cls, settings: object) -> Retriever:
        """What a card keeps of one; nothing is at hand yet.

        Raises:
            ConfigError: it is nothing that finds passages, as a card made elsewhere may have it.
        """
        try:
            kept = dict(settings)  # type: ignore[call-overload]
            config = RetrieveConfig.model_validate({key: kept[key] for key in _CARD if key in kept})
            made = cls({**kept, "k": config.k})
            made.query.fields  # noqa: B018  (which may be wrong)
        except (TypeError, ValueError, KeyError, ConfigError):
            raise ConfigError(
                f"the card's recipe has `retrieve` as {short(settings)}, which finds no passages; train the prompt anew"
            ) from None
        return made

    def over(self, source: Path | Find) -> Retriever:
        """The same over a folder of texts, or with a function, or the one at FILE.py:NAME.

        Raises:
            ConfigError: the folder is no folder of texts, or the file has no such function.
        """
        if not isinstance(source, Path):
            return replace(self, find=source, settings={**self._asked, "function": name_of(source)})
        return self._over_function(source) if is_function(source) else self._over_folder(source)

    def _over_function(self, address: Path) -> Retriever:
        settings = {**self._asked, "function": address.name}
        return replace(self, find=load_function(str(address)), settings=settings, address=str(address.resolve()))

    def _over_folder(self, folder: Path) -> Retriever:
        cut = {key: int(self.settings.get(key, default)) for key, default in (("words", 100), ("overlap", 0))}
        index = Index(read_folder(folder), **cut)
        settings = {**self._asked, **cut, "digest": index.digest}
        return replace(self, find=index, settings=settings, address=str(folder.resolve()))

    @property
    def given(self) -> Find | None:
        """The function that came from Python, if one did; any other way to find passages is the task file's."""
        return self.find if self.address is None else None

    @property
    def _asked(self) -> dict[str, Any]:
        return {key: self.settings[key] for key in ("query", "k")}

    @cached_property
    def query(self) -> Template:
        """Of the question."""
        return Template(str(self.settings["query"]))

    def fill(self, row: Row, where: object = "the input") -> Row:
        """A row with its passages as one text, each on a line of its own, the best first: its own, a text or a list of them,
        else those that are found; none are found for a blank question.

        Raises:
            DataError: nothing that finds them is at hand, or it fails or gives something else than texts.
        """
        if not is_missing(row.get(PASSAGES)):
            return {**row, PASSAGES: field_text(row, PASSAGES, where)}
        query, k = self.query.fill(row, where), int(self.settings["k"])
        if not query.strip():
            return {**row, PASSAGES: ""}
        if self.find is None:
            raise DataError(f"{where} has no {PASSAGES!r}, and {self.missing}; give {PASSAGES!r} as a column of its own")
        try:
            found = self.find(query, k)
        except Exception as error:  # it is the user's own code
            raise DataError(
                f"{where}: {self.settings.get('function', 'the index')} fails at {short(query)}: {type(error).__name__}: "
                f"{reason_of(error)}; mend it, or give {PASSAGES!r} as a column"
            ) from error
        if isinstance(found, str) or not isinstance(found, Sequence) or not all(isinstance(one, str) for one in found):
            raise DataError(f"{where}: what is found as its passages is {short(found)}; a list of texts is needed")
        return {**row, PASSAGES: joined(found[:k])}

    def fill_all(self, rows: PlacedRows) -> PlacedRows:
        """Rows with their passages. Raises as :meth:`fill` does."""
        return PlacedRows([self.fill(row, Place(rows.where, place)) for place, row in enumerate(rows)], rows.where)


def _beside(path: str, folder: Path) -> Path:
    return folder / Path(path).expanduser()


def is_function(source: Path) -> bool:
    """Whether a path is FILE.py:NAME."""
    return ".py:" in source.name


def name_of(find: Find) -> str:
    """What a function is called."""
    return str(getattr(find, "__qualname__", type(find).__qualname__))
