"""Every error that softprompt raises on purpose.

::

    SoftPromptError
    ├── ConfigError            a task file or an option is wrong
    │   ├── DataError          rows or files of a task are wrong
    │   └── FieldError         a field of a request is wrong
    ├── BaseModelError         the base cannot be found, read or used
    │   └── ContextError       prompt + input + output do not fit the base
    ├── PromptFileError        a prompt file is damaged, foreign or unreadable
    ├── FingerprintMismatch    a prompt was made for another base
    ├── TrainingError          training cannot go on (NaN, killed, out of memory)
    │   └── TrainingStopped    it was told to stop; the same call goes on from there
    ├── EngineError            an engine cannot run a job: it is stopped, or its base failed
    │   └── EngineBusy         its queue is full; try again later
    ├── LibraryError           the registry or the store refuses
    │   ├── NotFound           no such task, version, alias, tag, key or blob
    │   ├── NameRefused        a name, tag, alias or URL is not allowed
    │   ├── PromotionRefused   a gate says no
    │   ├── RegistryError      the database is unreachable, full, locked or of another schema
    │   │   └── ReadOnly       the library may only be read here
    │   └── StoreError         the blob store is unreachable, full or damaged
    └── Denied                 a key is missing, revoked or lacks the scope

A message says what was wrong, with which value, and what to do next. The command line prints it without a traceback and
exits 1; a training that a signal stopped exits with 128 and the signal's number.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SoftPromptError(Exception):
    """Root of all errors of this package."""


class ConfigError(SoftPromptError):
    """A task file or an option is wrong."""


class DataError(ConfigError):
    """Rows or files of a task are wrong."""


class FieldError(ConfigError):
    """A field of a request is wrong."""

    def __init__(self, message: str, field: str | None = None) -> None:
        """`field` is its name in the request."""
        super().__init__(message)
        self.field = field


class BaseModelError(SoftPromptError):
    """The base model cannot be found, read or used."""


class ContextError(BaseModelError):
    """Prompt + input + output do not fit the context of the base."""


class PromptFileError(SoftPromptError):
    """A prompt file is damaged, foreign or unreadable."""


class FingerprintMismatch(SoftPromptError):
    """A prompt was made for another base than the one it is used on."""


class TrainingError(SoftPromptError):
    """Training cannot go on."""


class TrainingStopped(TrainingError):
    """Training was told to stop; the same call goes on from there."""

    number: int | None = None
    """The signal that told it, if one did: it is in the command's exit status, as a shell has it."""


class EngineError(SoftPromptError):
    """An engine cannot run a job."""


class EngineBusy(EngineError):
    """The queue of an engine is full."""


class LibraryError(SoftPromptError):
    """The registry or the store refuses."""


class NotFound(LibraryError):
    """No such task, version, alias, tag, key or blob."""

    def __init__(self, message: str, others: str = "") -> None:
        """`others` is the end of the message that names what there is (:func:`nearest`)."""
        super().__init__(message + others)
        self.parts = (message, others)
        """The message for those who may not see what there is, and the rest of it."""


class NameRefused(LibraryError):
    """A name, tag, alias or URL is not allowed."""


class PromotionRefused(LibraryError):
    """A gate says no to a promotion."""


class RegistryError(LibraryError):
    """The registry's database is unreachable, full, locked or of another schema."""


class ReadOnly(RegistryError):
    """The library may only be read here."""


class StoreError(LibraryError):
    """The blob store is unreachable, full or damaged."""


class Denied(SoftPromptError):
    """A key is missing, revoked or lacks the scope."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A tail for messages: `; did you mean 'x'?` for the closest known name, or the list of the known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"; known: {shown}"


_LONGEST = 600


def reason_of(error: BaseException) -> str:
    """What an error of a library says, on one line: all of its lines, as the decisive one is not always the first; of very
    long ones beginning and end."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
