"""Passages for inputs: what a retriever finds for a row's question, and an index over a folder of texts. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from softprompt.errors import ConfigError, DataError
from softprompt.rows.sources import Row
from softprompt.rows.values import is_empty, short, text_of
from softprompt.tasks.template import PASSAGES, Template

KINDS = (".md", ".txt")
"""Files of a folder that are read as texts; others are refused, hidden ones left out."""

Find = Callable[[str, int], Sequence[str]]
"""A retriever: from a question and k to k passages at most, the best one first."""


class RetrieveConfig(BaseModel):
    """How a task's passages are found."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    folder: str | None = None
    """A folder of texts (.txt, .md), beside the task file; without one a Python function is the retriever."""
    query: str | None = None
    """Template of the question, with the names of columns in braces; by default the input's one other column."""
    k: int = Field(default=3, ge=1, le=1000)
    """Passages at most."""
    words: int = Field(default=100, ge=1)
    """Words of a passage at most."""
    overlap: int = Field(default=0, ge=0)
    """Words that a passage repeats of the one before it in its file."""


def passages_of(text: str, words: int, overlap: int = 0) -> list[str]:
    """A text in passages of so many words, each on one line; the last one is what is left. None of it is left out.

    Args:
        overlap: how many words of one passage the next begins with, fewer than `words`.
    """
    every = text.split()
    starts = range(0, max(1, len(every) - overlap), words - overlap) if every else ()
    return [" ".join(every[start : start + words]) for start in starts]


def read_folder(folder: Path) -> dict[str, str]:
    """The texts of a folder and the folders in it, by their names within it, in order.

    Raises:
        ConfigError: there is no such folder, it holds no text, or a file in it is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"retrieve: there is no folder {str(folder)!r}; name a folder of texts ({', '.join(KINDS)})")
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
        self._weigh = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
        try:
            self._weights = self._weigh.fit_transform(self.passages)
        except ValueError:
            raise ConfigError("retrieve: the folder's texts have no word; put others into it") from None

    def __call__(self, query: str, k: int) -> list[str]:
        """The k passages nearest to a question, the best first."""
        scores = (self._weights @ self._weigh.transform([query]).T).toarray()[:, 0].round(9)
        best = sorted(range(len(scores)), key=lambda place: -scores[place])[:k]
        return [self.passages[place] for place in best if scores[place] > 0]


@dataclass(frozen=True)
class Retriever:
    """What gives rows their passages."""

    query: str
    """Template of the question."""
    k: int
    settings: Mapping[str, Any]
    """What a card keeps of it: those, and the index's own and its digest, or the function's name."""
    find: Find | None = None
    """None where neither the folder nor the function is at hand."""

    @classmethod
    def make(cls, config: RetrieveConfig, find: Find | None, folder: Path | None, input_: Template) -> Retriever:
        """The retriever of a task file.

        Raises:
            ConfigError: the template has no place for passages, or there is no or more than one way to find them.
        """
        others = [name for name in input_.fields if name != PASSAGES]
        if PASSAGES not in input_.fields:
            raise ConfigError(f"input: {short(input_.text, 200)} has no {{{PASSAGES}}}, which `retrieve` fills; add it")
        if (find is None) == (folder is None):
            both = "both are given" if find is not None else "neither is given"
            raise ConfigError(f"retrieve: a folder or a Python function `retriever` finds passages, and {both}; give one")
        if config.query is None and len(others) != 1:
            raise ConfigError(
                f"retrieve: `query` is missing; write what is looked for, such as {{{(others or ['text'])[0]}}}"
            )
        query = config.query or f"{{{others[0]}}}"
        if not Template(query).fields or PASSAGES in Template(query).fields:
            raise ConfigError(f"retrieve: the query {short(query)} must name a column in braces, and not {{{PASSAGES}}}")
        settings: dict[str, Any] = {"query": query, "k": config.k}
        if find is not None:
            name = getattr(find, "__qualname__", type(find).__qualname__)
            return cls(query, config.k, settings | {"function": name}, find)
        return cls.of_settings(settings | {"words": config.words, "overlap": config.overlap}).over(folder)

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Retriever:
        """That of a card, which finds nothing yet."""
        return cls(str(settings["query"]), int(settings["k"]), settings)

    def over(self, source: Path | Find | None) -> Retriever:
        """The same over a folder of texts, or with a function.

        Raises:
            ConfigError: the folder is no folder of texts.
        """
        if source is None or not isinstance(source, Path):
            return Retriever(self.query, self.k, self.settings, source)
        words, overlap = int(self.settings.get("words", 100)), int(self.settings.get("overlap", 0))
        if overlap >= words:
            raise ConfigError(f"retrieve: an overlap of {overlap} words needs longer passages than {words}; make it smaller")
        index = Index(read_folder(source), words, overlap)
        return Retriever(self.query, self.k, {**self.settings, "digest": index.digest}, index)

    @cached_property
    def columns(self) -> list[str]:
        """Those that the question is made of."""
        return Template(self.query).fields

    def passages(self, row: Row, where: object = "the input") -> str:
        """What the template says for `{passages}`: a row's own, a text or a list of them; else those that are found, each on
        a line of its own, the best first. Nothing for a blank question.

        Raises:
            DataError: no retriever is at hand, or it gives something else than texts.
        """
        if PASSAGES in row:
            own = row[PASSAGES]
            if not isinstance(own, list | tuple):
                return "" if is_empty(own) else text_of(own)
            found: Sequence[str] = own
        else:
            query = Template(self.query).fill(row, where)
            if not query.strip():
                return ""
            if self.find is None:
                raise DataError(
                    f"{where} has no {PASSAGES!r}, and the texts that this task looks them up in are not at hand; send "
                    f"{PASSAGES!r} as a column of its own"
                )
            found = self.find(query, self.k)
        if isinstance(found, str) or not isinstance(found, Sequence) or not all(isinstance(one, str) for one in found):
            raise DataError(f"{where}: its passages are {short(found)}; a list of texts is needed")
        return "\n".join(" ".join(one.split()) for one in found[: None if PASSAGES in row else self.k])

    def fill(self, row: Row, where: object = "the input") -> Row:
        """A row with its passages as one text. Raises as :meth:`passages` does."""
        return {**row, PASSAGES: self.passages(row, where)}
