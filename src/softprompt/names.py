"""What names, references and URLs may look like.

A name becomes part of a folder, of a URL and of a model id that clients send, so the alphabet is small: no separator,
no space, no control character, and nothing that could climb out of a root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from softprompt.errors import NameRefused

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=+-]*", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@=+-]*", re.ASCII)
_SIGNS = ", '.', '_' and '-'"
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

LONGEST_NAME = 128
LONGEST_NUMBER = 9
"""Digits of a version number; more would not fit the database's integer."""

AUTO = "auto"
"""The model by which requests ask for the task nearest to their input."""

BUCKET_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
REDIS_SCHEMES = ("redis", "rediss")
STORE_SCHEMES = ("file", "memory", *BUCKET_SCHEMES, *REDIS_SCHEMES)


@dataclass(frozen=True)
class Ref:
    """A reference to a version: `task`, `task@3` or `task@alias`; at most one of number and alias is set."""

    task: str
    number: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.task}@{self.number}"
        return f"{self.task}@{self.alias}" if self.alias is not None else self.task


def check_task(name: str) -> str:
    """Return the name of a task as it is.

    Raises:
        NameRefused: it is empty, too long, or has other characters than letters, digits, `.`, `_`, `-`.
    """
    return _check("task", name)


def check_new_task(name: str, bases: Iterable[str] = ()) -> str:
    """Return the name of a task that is to be made as it is. Requests say `model`, and one word must mean one thing.

    Args:
        name: the task's.
        bases: names of bases, as :func:`base_name` has them.

    Raises:
        NameRefused: not a name, or that of a base, or `auto`.
    """
    check_task(name)
    if name == AUTO:
        raise NameRefused(
            f"task {name!r} is refused: requests for the model {name!r} let their input choose the task; take another name"
        )
    if name in bases:
        raise NameRefused(
            f"task {name!r} is refused: a base has that name, and requests for the model {name!r} mean the base without a "
            "prompt; take another name"
        )
    return name


def base_name(source: str) -> str:
    """The public name of a base, never a path of this machine: the last part of a folder or a GGUF file, or the id without a
    revision."""
    folder = Path(os.path.expanduser(source))
    if folder.is_absolute() or (not source.startswith("builtin/") and folder.exists()):
        return folder.name if folder.is_file() else folder.resolve().name  # a file that is a link keeps its name
    return source.partition("@")[0]


def check_alias(name: str) -> str:
    """Return the name of an alias as it is.

    Raises:
        NameRefused: not a name, or digits alone: `task@3` always means version 3.
    """
    return _check("alias", name, digits="mean a version number; take a name like 'production'")


def check_tenant(name: str) -> str:
    """Return the name of a tenant as it is.

    Raises:
        NameRefused: not a name.
    """
    return _check("tenant", name)


def check_suite(name: str) -> str:
    """Return the name of a suite as it is.

    Raises:
        NameRefused: not a name.
    """
    return _check("suite", name)


def check_key_name(name: str) -> str:
    """Return the name of an API key as it is.

    Raises:
        NameRefused: not a name, or digits alone, which would be taken for a key's id.
    """
    return _check("key", name, digits="are the id of a key; take a name like 'ci'")


def check_user(name: str) -> str:
    """Return the id of a user as it is.

    Raises:
        NameRefused: it is empty, too long, or has other characters than letters, digits and `._:@=+-`.
    """
    return _check("user", name, _USER, " and '._:@=+-'")


def is_user(text: str) -> bool:
    """Whether the text could be the id of a user."""
    return len(text) <= LONGEST_NAME and bool(_USER.fullmatch(text))


def check_tag(name: str) -> str:
    """Return a tag as it is.

    Raises:
        NameRefused: not a tag.
    """
    return _check("tag", name, _TAG, " and '._:=+-'")


def check_tags(names: Iterable[str]) -> tuple[str, ...]:
    """Return tags, each once, in order.

    Raises:
        NameRefused: one of them is not a tag.
    """
    return tuple(sorted({check_tag(name) for name in names}))


def check_digest(digest: str) -> str:
    """Return the digest as it is.

    Raises:
        NameRefused: it is not 64 lower-case hex digits, so it is not the name of a blob.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise NameRefused(f"{digest!r} is no digest of a blob; give 64 lower-case hex digits")
    return digest


def is_digest(text: str) -> bool:
    """Whether the text could be the digest of a blob."""
    return bool(_DIGEST.fullmatch(text))


def parse_ref(text: str) -> Ref:
    """Read `task`, `task@3` or `task@alias`.

    Raises:
        NameRefused: it is none of these; of a user's own version it says that it is one.
    """
    if not isinstance(text, str):
        raise NameRefused(f"{text!r} is no reference; write 'task', 'task@3' or 'task@production'")
    task, at, rest = text.partition("@")
    owner, mark, user = task.partition("~")
    if mark and _NAME.fullmatch(owner) and _USER.fullmatch(user):
        raise NameRefused(
            f"{_shown(text)} is a user's own version, which answers that user's requests for {owner!r} and is named by no "
            f"reference; name a version of the task, such as {owner!r}; "
            f"`softprompt personalize {owner} --list` shows whose there are"
        )
    check_task(task)
    if not at:
        return Ref(task)
    if rest.isascii() and rest.isdigit():
        if len(rest) > LONGEST_NUMBER or int(rest) == 0:
            raise NameRefused(f"{_shown(text)} names no version: versions count from 1; `softprompt show {task}`")
        return Ref(task, number=int(rest))
    return Ref(task, alias=check_alias(rest))


def parse_own_ref(text: str) -> tuple[Ref, str | None]:
    """Read what answers are called: as :func:`parse_ref` does, or `task~user@3` for a version and the user whose own it is.

    Raises:
        NameRefused: it is none of these.
    """
    task, mark, rest = text.partition("~")
    if not mark:
        return parse_ref(text), None
    user, _, number = rest.rpartition("@")
    ref = parse_ref(f"{task}@{number}")
    if ref.number is None:
        raise NameRefused(f"{_shown(text)} names no user's own version; write it as the answer did, 'task~user@3'")
    return ref, check_user(user)


def split_store_url(url: str) -> SplitResult:
    """The parts of the URL of a store; a plain path comes back with the scheme `file`.

    Raises:
        NameRefused: an unknown scheme, a missing bucket or host, a path that climbs with `..`, or a query.
    """
    if not url or "\0" in url:
        raise NameRefused(f"store URL {url!r} is refused; give a folder or a URL such as s3://bucket/prefix")
    if "://" not in url:
        return SplitResult("file", "", url, "", "")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise NameRefused(f"store URL {_hide_rest(url)!r} cannot be read ({error}); mend it") from None
    scheme = parts.scheme.lower()
    if scheme not in STORE_SCHEMES:
        known = ", ".join(f"{name}://" for name in STORE_SCHEMES)
        raise NameRefused(f"store URL {hide_password(url)!r} has the unknown scheme {scheme!r}; known: {known}")
    if port == 0 or (scheme in BUCKET_SCHEMES and not parts.hostname) or (scheme in REDIS_SCHEMES and not parts.hostname):
        raise NameRefused(f"store URL {hide_password(url)!r} names no bucket or host; write {scheme}://NAME/...")
    if ".." in unquote(parts.path).replace("\\", "/").split("/"):
        raise NameRefused(f"store URL {hide_password(url)!r} climbs with '..'; write the path out")
    if parts.query or parts.fragment:
        raise NameRefused(
            f"store URL {hide_password(url)!r} has a query or fragment; set options in the environment "
            "(AWS_ENDPOINT_URL, AWS_REGION, ...) instead"
        )
    if scheme == "file" and parts.netloc not in ("", "localhost"):
        raise NameRefused(f"store URL {url!r} names the host {parts.netloc!r}; write file:///path with three slashes")
    return parts._replace(scheme=scheme)


def hide_password(url: str) -> str:
    """The URL for a message, with `***` for its password, and without its query, where one may stand too.

    Done on the text, since a URL that is wrong is just what messages are about.
    """
    scheme, mark, rest = url.partition("://")
    rest, asked, _ = rest.partition("?")
    before, at, host = rest.rpartition("@")
    user, colon, _ = before.partition(":")
    shown = f"{user}:***@{host}" if at and colon else rest
    return scheme + mark + shown + ("?..." if asked else "")


def _hide_rest(url: str) -> str:
    """A URL too broken to find the password in: only its scheme."""
    return url.partition("://")[0] + "://..."


def _check(kind: str, name: str, pattern: re.Pattern[str] = _NAME, signs: str = _SIGNS, digits: str = "") -> str:
    """`digits` is what digits alone mean, where they are refused."""
    if not isinstance(name, str) or not pattern.fullmatch(name):
        allowed = f"letters, digits{signs}, beginning with a letter or digit"
        raise NameRefused(f"{kind} {_shown(name)} is refused; use {allowed}")
    if len(name) > LONGEST_NAME:
        raise NameRefused(f"{kind} {_shown(name)} is refused: it has {len(name)} characters; use at most {LONGEST_NAME}")
    if digits and name.isdigit():
        raise NameRefused(f"{kind} {name!r} is refused: digits alone {digits}")
    return name


def _shown(name: object) -> str:
    text = ascii(name)
    return text if len(text) <= 60 else text[:57] + "..."
