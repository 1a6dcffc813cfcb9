"""Templates: text with the names of columns in it, filled from rows; and what of an answer is the template's. No torch."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from softprompt.errors import ConfigError, DataError, nearest
from softprompt.rows.openai_files import MESSAGES, turns_of
from softprompt.rows.sources import Row
from softprompt.rows.values import listing, short, text_of
from softprompt.text import MASK, Parts

PLACE = "soft_prompt"
"""In braces, where the vectors stand in an input; no column."""

PASSAGES = "passages"
"""The column of passages: a text, or a list of them, that rows bring or a retriever finds."""

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def nameable(column: str) -> bool:
    """Whether a template can name a column: any but a blank one, one with braces, or one called as the vectors are."""
    return bool(column.strip()) and not set("{}") & set(column) and column != PLACE


def literal(text: str) -> str:
    """A text as a template says it."""
    return text.replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True)
class Template:
    """Text with names of columns in braces, letter by letter as the table has them; `{{` and `}}` stand for braces."""

    text: str
    masked: bool = False
    """Whether `{mask}` is no column, but where a masked language model says its answer."""

    @cached_property
    def parts(self) -> list[tuple[str, str | None]]:
        """Literal text and the field behind it, in order.

        Raises:
            ConfigError: braces that do not match, or no name between them.
        """
        wrong = f"the template {short(self.text, 200)} is wrong"
        parts: list[tuple[str, str | None]] = []
        literal, end = "", 0
        for found in _BRACES.finditer(self.text):
            literal, end = literal + self.text[end : found.start()], found.end()
            if found[0] in ("{{", "}}"):
                literal += found[0][0]
            elif self.masked and found[0] == MASK:
                literal += MASK
            elif found[1] is None:
                raise ConfigError(
                    f"{wrong}: the brace {found[0]} at character {found.start() + 1} stands "
                    f"alone; write {2 * found[0]} for a brace"
                )
            elif found[1] != PLACE and not nameable(found[1]):
                raise ConfigError(f"{wrong} at {found[0]}; name a column in the braces")
            else:
                parts.append((literal, found[1]))
                literal = ""
        return [*parts, (literal + self.text[end:], None)]

    @property
    def fields(self) -> list[str]:
        """Names of columns it needs, each once, in order."""
        return list(dict.fromkeys(name for _, name in self.parts if name is not None and name != PLACE))

    @cached_property
    def around_prompt(self) -> tuple[Template, Template] | None:
        """What stands before the vectors and what behind them; None where it does not say where they stand.

        Raises:
            ConfigError: it says so twice, or puts nothing behind them.
        """
        found = [one for one in _BRACES.finditer(self.text) if one[1] == PLACE]
        if not found:
            return None
        if len(found) > 1:
            raise ConfigError(
                f"the template {short(self.text, 200)} has {{{PLACE}}} {len(found)} times; a prompt stands at one place"
            )
        before, behind = self.text[: found[0].start()], self.text[found[0].end() :]
        if not behind:
            raise ConfigError(
                f"the template {short(self.text, 200)} ends with {{{PLACE}}}; put text behind it, such as a line break: an "
                "answer follows a token"
            )
        return Template(before, self.masked), Template(behind, self.masked)

    @property
    def without_prompt(self) -> Template:
        """The same without a place for vectors."""
        if self.around_prompt is None:
            return self
        before, behind = self.around_prompt
        return Template(before.text + behind.text, self.masked)

    def fill(self, row: Row, where: object = "the row") -> str:
        """The text for a row.

        Raises:
            DataError: the row lacks a field, or it has no text.
        """
        return "".join(literal + value for literal, value in self.fill_parts(row, where))

    def fill_parts(self, row: Row, where: object = "the row") -> Parts:
        """The text for a row, in parts: what the template says, and what the row says behind it.

        Raises:
            DataError: the row lacks a field or it is no text or number.
        """
        return [(text, "" if name in (None, PLACE) else field_text(row, name or "", where)) for text, name in self.parts]


def field_text(row: Row, name: str, where: object) -> str:
    """A column of a row as text; `where` prints as what messages call the row.

    Raises:
        DataError: it is not there, or has no text.
    """
    try:
        return text_of(as_column(name, row[name]))
    except KeyError:
        tails = {
            PASSAGES: "; `retrieve` would fill it from a folder of texts",
            MASK[1:-1]: f"; with `task_type: MASKED_LM` {MASK} is where a masked language model says its answer",
        }
        tail = tails.get(name, "")
        raise DataError(f"{where} has no field {name!r}, which the template needs{_known(name, list(row))}{tail}") from None
    except ValueError as error:
        raise DataError(
            f"{where}: the field {name!r} holds {short(row[name])}: {error}; text, a number or a truth value is needed: "
            f"{excerpt(row)}"
        ) from None


def as_column(name: str, value: object) -> object:
    """A value as its column has it: passages that are a list of texts are one text, and so are messages, as JSON.

    Raises:
        ValueError: messages are none.
    """
    if name == MESSAGES and isinstance(value, list | tuple):
        try:
            return json.dumps(turns_of(value), ensure_ascii=False)
        except DataError as error:
            raise ValueError(str(error)) from None
    listed = name == PASSAGES and isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    return joined(value) if listed else value  # type: ignore[arg-type]


def joined(passages: Iterable[str]) -> str:
    """Passages as one text, each on a line of its own."""
    return "\n".join(" ".join(one.split()) for one in passages)


def _known(name: str, columns: list[str]) -> str:
    """A tail for messages: the column most like a name, else the first of them."""
    same = next((column for column in columns if column.strip().casefold() == name.strip().casefold()), None)
    tail = f"; did you mean {same!r}?" if same else nearest(name[:100], [known for known in columns if len(known) <= 100])
    if not tail.startswith("; did"):
        tail = f"; known: {listing(columns)}"
    return tail if re.fullmatch(r"[\w .-]*", name) else f"{tail}; a brace that is text is written twice"


def excerpt(row: Row) -> str:
    """The beginning of a row, to find it by in its file: its number may count in a split."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


@functools.cache
def around(target: Template) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What a target says before its answer and behind it, as patterns; where it says the answer twice, all from behind the
    first one on."""
    (first, _), *rest = target.parts
    before, gap = _spaced(first.strip()), r"(?:\s+|\Z)" if first[-1:].isspace() and first.strip() else ""
    behind = "".join(_spaced(literal) + ("" if name is None else ".*") for literal, name in rest)
    behind = behind.removesuffix(r"\s+").removeprefix(r"\s+")
    gap_behind = r"(?:\A|\s+)" if rest and rest[0][0][:1].isspace() and behind else ""
    flags = re.IGNORECASE | re.DOTALL
    return re.compile(rf"\A{before}{gap}", flags), re.compile(rf"{gap_behind}{behind}\Z", flags)


def _spaced(literal: str) -> str:
    """A pattern of a text, whatever its spacing."""
    return r"\s+".join(re.escape(word) for word in re.split(r"\s+", literal))
