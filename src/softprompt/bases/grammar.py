"""What a base may write where an answer must be JSON: a schema compiled for its tokenizer by llguidance
(https://github.com/guidance-ai/llguidance), which says after each token which ones may come next. No torch."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping, Sequence, Set
from typing import Any

from softprompt.errors import ConfigError

ANY_OBJECT = '{"type": "object"}'
"""The schema of any JSON object."""

_KEPT = 64
"""Compiled schemas that a base keeps."""
_SETTINGS = "x-guidance"
"""The key of schemas that changes how llguidance reads the others; it is not for those who write them."""
_BLANKS = {"whitespace_flexible": False, "key_separator": ": ?", "item_separator": ", ?"}
"""One blank may stand behind a colon and a comma, as `json.dumps` writes it, and no other white space: a base that may go on
with it often does, and without end. Versions of llguidance before 1.9 repeat a `whitespace_pattern`."""


def schema_text(schema: Mapping[str, Any] | str, name: str) -> str:
    """A JSON schema as text, its keys in their order, which is the order in which they are written.

    Args:
        name: what messages call it.

    Raises:
        ConfigError: it is no schema, or one that llguidance cannot compile; it says what of it.
    """
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{name} is no JSON: {error}; give a JSON schema, which is an object") from None
    if not isinstance(schema, Mapping):
        raise ConfigError(f"{name} is {text[:60]}; give a JSON schema, which is an object")
    if _SETTINGS in text:
        raise ConfigError(f"{name} says {_SETTINGS!r}, which is not supported; leave it out")
    from llguidance import LLMatcher

    failed, remarks = LLMatcher.validate_grammar_with_warnings(_grammar(text, ""))
    if failed:
        raise _refusal(name, remarks[0])
    return text


def _grammar(schema: str, before: str) -> str:
    from llguidance import LLMatcher

    settings = json.dumps({_SETTINGS: _BLANKS})[:-1]
    body = f"{settings}, {schema[1:]}" if len(schema) > 2 else settings + "}"
    if not before:
        return str(LLMatcher.grammar_from_json_schema(body))  # whose errors are of the schema alone
    return str(LLMatcher.grammar_from_lark(f"start: {json.dumps(before)} body\nbody: %json {body}\n"))


def _refusal(name: str, reason: str) -> ConfigError:
    said = " ".join(reason.split()).removeprefix("failed to compile JSON schema: ")
    return ConfigError(f"{name} cannot be compiled: {said[:300]}; change that part of the schema")


class Matcher:
    """One answer as it grows."""

    def __init__(self, matcher: Any, end_ids: Set[int]) -> None:
        self._matcher, self._end_ids = matcher, end_ids

    def allowed(self) -> bytes:
        """Which tokens may come next: a bit each, the lowest of a byte first. An end token may where the answer is whole.
        All bits are 0 where nothing may come."""
        mask = bytearray(self._matcher.compute_bitmask())
        if self._matcher.is_error():
            return bytes(len(mask))
        if not self._matcher.is_accepting():
            for token in self._end_ids:  # which may be text to the tokenizer
                mask[token // 8] &= ~(1 << token % 8) & 0xFF
        return bytes(mask)

    def push(self, token: int) -> bool:
        """Take a token; whether it is the last, as the answer is whole and nothing may stand behind it. An end token is
        none of the answer's, and is the caller's to know."""
        if token in self._end_ids:
            return True
        return not self._matcher.consume_token(token) or bool(self._matcher.is_stopped())

    @property
    def is_whole(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting()) and not self._matcher.is_error()

    def count_allowed(self, ids: Sequence[int]) -> int:
        """How many of some tokens may come next, one after the other."""
        return int(self._matcher.validate_tokens(list(ids)))


class Grammar:
    """A schema compiled for a base. Answers of different rows grow apart."""

    def __init__(self, matcher: Any, end_ids: Set[int]) -> None:
        self._matcher, self._end_ids = matcher, end_ids

    def begin(self) -> Matcher:
        """An answer that is still empty."""
        return Matcher(self._matcher.deep_copy(), self._end_ids)

    def accepts(self, ids: Sequence[int]) -> bool:
        """Whether tokens are a whole answer."""
        return self.fault(ids) is None

    def fault(self, ids: Sequence[int]) -> int | None:
        """The place of the first token that may not stand there, the end where more must come; None for a whole answer."""
        matcher = self.begin()
        if (count := matcher.count_allowed(ids)) < len(ids):
            return count
        for token in ids:
            matcher.push(token)
        return None if matcher.is_whole else len(ids)


class Grammars:
    """Compiles schemas for one base. Safe to use from several threads."""

    def __init__(self, backend: Any, name: str, rows: int, end_ids: Set[int]) -> None:
        """
        Args:
            backend: the tokenizer, of the tokenizers library; None where it is none of those.
            name: the base's, for messages.
            rows: those of its embedding.
            end_ids: what ends a text.
        """
        self._backend, self._name, self._rows = backend, name, rows
        self._end_ids = frozenset(token for token in end_ids if token < rows)
        self._lock = threading.Lock()
        self._compiled = functools.lru_cache(_KEPT)(self._compile)

    def compile(self, schema: str, *, before: str = "", name: str = "the schema") -> Grammar:
        """A schema, in the text that :func:`schema_text` gives, compiled.

        Args:
            before: white space that answers begin with.
            name: what messages call it.

        Raises:
            ConfigError: the schema cannot be compiled, or the base's tokenizer cannot write what it asks for.
        """
        with self._lock:  # the first call takes the tokenizer apart, which is to be done once
            found = self._compiled(schema, before)
        if isinstance(found, str):
            raise _refusal(name, found)
        if not any(found.begin().allowed()):
            raise ConfigError(
                f"{name}: the tokenizer of {self._name} has no token that JSON of it begins with; take another base"
            )
        return found

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from llguidance import LLTokenizer
        from tokenizers import Tokenizer

        if self._backend is None:
            raise ConfigError(
                f"the tokenizer of {self._name} is none of the tokenizers library, for which alone schemas can be compiled; "
                "take another base"
            )
        copied = Tokenizer.from_str(self._backend.to_str())
        copied.no_padding()
        copied.no_truncation()
        size = max(self._rows, copied.get_vocab_size(with_added_tokens=True))
        try:
            return LLTokenizer(copied.to_str(), n_vocab=size, eos_token=sorted(self._end_ids) or None)
        except Exception as error:  # whatever the library makes of a tokenizer that it does not know
            said = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"no schema can be compiled for the tokenizer of {self._name} ({said}); take another base"
            ) from None

    def _compile(self, schema: str, before: str) -> Grammar | str:
        from llguidance import LLMatcher

        grammar = _grammar(schema, before)
        failed, remarks = LLMatcher.validate_grammar_with_warnings(grammar, self._tokenizer)
        if failed:
            return str(remarks[0])
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        return matcher.get_error() if matcher.is_error() else Grammar(matcher, self._end_ids)
