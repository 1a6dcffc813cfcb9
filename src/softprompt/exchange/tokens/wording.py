"""Texts that place prompts which are tokens: the parts of a task's input, a chat template over all tasks, and all of it in a
file for programs. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from softprompt.tasks.wording.template import PLACE

if TYPE_CHECKING:
    from softprompt.exchange.tokens.carried import Carried

INFO = "softprompt_tokens.json"
"""The file for programs; by it an earlier export is known."""

JOINS = ("", " ")
"""What may stand between tokens and the text behind them: some tokenizers put a word mark before a text that stands alone,
and none before one that stands behind a token."""

Parts = list[tuple[str, str | None]]
"""Literal text, and the column behind it or none."""


def worded(one: Carried, join: str) -> Parts:
    """The input of a prompt's task, its tokens in it."""
    text, parts = "".join(one.tokens) + join, Parts()
    held = "" if one.form.is_placed else text
    for literal, name in one.form.input.parts:
        held += literal
        if name == PLACE:
            held += text
            continue
        parts.append((held, name))
        held = ""
    return parts


def text_of(parts: Parts, row: Mapping[str, str]) -> str:
    """The input of a row."""
    return "".join(literal + (row[name] if name is not None else "") for literal, name in parts)


def shown(one: Carried, join: str) -> str:
    """The same for people: of the tokens the first and the last, columns in braces."""
    tokens, written = one.tokens, "".join(one.tokens)
    short = tokens[0] + (f"…{tokens[-1]}" if len(tokens) > 1 else "")
    return "".join(
        literal.replace(written, short) + (f"{{{name}}}" if name is not None else "") for literal, name in worded(one, join)
    )


def chat_template(carried: Sequence[Carried], joins: Sequence[str]) -> str | None:
    """A chat template (Jinja) that words one user message as the input of a task, which a system message names; of one task
    it need not. Tasks whose inputs have several columns are not in it; None where all have."""
    single = [(one, join) for one, join in zip(carried, joins, strict=True) if len(one.form.input.fields) == 1]
    if not single:
        return None
    names = ", ".join(one.task for one, _ in single)
    default = _quoted(single[0][0].task) if len(single) == 1 else '""'
    lines = [
        '{%- set named = messages[0]["role"] == "system" -%}',
        f'{{%- set task = messages[0]["content"] if named else {default} -%}}',
        '{%- set last = messages[-1] -%}',
        '{%- if messages | length != (2 if named else 1) or last["role"] != "user" -%}',
        _refusal("a prompt takes one user message, behind a system message that names its task"),
        "{%- endif -%}",
    ]  # fmt: skip
    for one in carried:
        lines += [
            f'{{%- if {_quoted(one.mark)} in last["content"] -%}}',
            _refusal(f"the message holds {one.mark}, with which the tokens of a prompt begin"),
            "{%- endif -%}",
        ]
    for number, (one, join) in enumerate(single):
        said = [
            piece
            for literal, name in worded(one, join)
            for piece in (_quoted(literal), 'last["content"]' if name is not None else '""')
            if piece != '""'
        ]
        lines += [
            f"{{%- {'if' if number == 0 else 'elif'} task == {_quoted(one.task)} -%}}",
            f"{{{{- {' + '.join(said)} -}}}}",
        ]
    lines += [
        "{%- else -%}",
        _refusal(f"the system message must be the name of a task, one of: {names}"),
        "{%- endif -%}",
    ]
    return "\n".join(lines)


def _refusal(why: str) -> str:
    return f"{{{{- raise_exception({_quoted(why)}) -}}}}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def described(
    carried: Sequence[Carried], joins: Sequence[str], labels: Sequence[Mapping[str, Sequence[int]] | None], first: int
) -> dict[str, Any]:
    """What the file for programs says.

    Args:
        joins: of each prompt, what stands behind its tokens.
        labels: of each prompt, the token ids of its answers.
        first: id of the first new token.
    """
    tasks: dict[str, Any] = {}
    at, card = first, carried[0].version.card
    for one, join, ids in zip(carried, joins, labels, strict=True):
        tokens = {"first": at, "count": len(one.tokens), "text": "".join(one.tokens)}
        told = {"version": one.version.number, "digest": one.version.digest, "tokens": tokens, "input": worded(one, join)}
        answers = {"max_new_tokens": one.prompt.card.max_new_tokens} if ids is None else {"labels": ids}
        tasks[one.task] = {**told, **answers, "card": json.loads(one.prompt.card.canonical())}
        at += len(one.tokens)
    return {"format": 1, "base": card.base, "fingerprint": card.fingerprint, "vocabulary": first, "tasks": tasks}
