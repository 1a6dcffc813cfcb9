"""How a base's chat template words one question and the answer behind it, and where a text prompt stands in an input that is
worded so. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, reason_of
from softprompt.rows.values import short
from softprompt.tasks.wording.template import Template, literal

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.text import Parts

_ASKED = ("softprompt-asks", "Is this\n<b>the</b> question of \"softprompt\" & {'all'} [its] users?\n\n- yes: \\no")
"""Two messages that a template must let through as they are: a word, and one with what templates may escape or change."""
_ANSWERED = "softprompt-answers"
_CLOCK = "\ue000"
"""What stands for the date where it is looked for: a character of nobody's."""


@dataclass(frozen=True)
class ChatFrame:
    """What stands around one message of the user, and around the answer behind it."""

    before: str
    """In front of the message: what begins a text, a system message, the head of the user's turn."""
    behind: str
    """Behind the message: the end of the user's turn, and the head of the assistant's."""
    lead: str = ""
    """White space that an answer begins with."""
    end: str = ""
    """The control token that ends an answer where it is not the tokenizer's end token."""
    notes: tuple[str, ...] = ()
    """What people should know of it."""
    prompted: str = field(default="", compare=False)
    """Behind the message as the template's own generation prompt has it, before anything of it is mended."""

    def head(self, controls: Collection[str]) -> str:
        """The head of the user's turn alone: from the last control token on; nothing where there is none."""
        start = max((self.before.rfind(text) for text in controls), default=-1)
        return self.before[start:] if start >= 0 else ""


def has_chat_template(tokenizer: Any) -> bool:
    """Whether a tokenizer comes with a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_frame(tokenizer: Any, controls: Collection[str]) -> ChatFrame:
    """The frame of a tokenizer's chat template, as `apply_chat_template` words a single message with a generation prompt,
    without thinking where the template can leave it out.

    Args:
        controls: the texts of its control tokens.

    Raises:
        ConfigError: the template puts no such message between fixed texts, and why.
    """
    asked = {"role": "user", "content": _ASKED[0]}
    before, behind = _around(_render(tokenizer, [asked], True), _ASKED[0])
    prompted = behind
    whole = _render(tokenizer, [asked | {"content": _ASKED[1]}], True)
    if _around(whole, _ASKED[1]) != (before, behind):
        raise ConfigError("it words a message by what the message says; write `input` without it")
    notes = []
    if date := _date_in(tokenizer, asked, before, behind):
        notes.append(
            f"the chat template says the date; `input` has that of today for good ({short(date, 60)}): write another, or "
            "take it out"
        )
    lead = ""
    start, rest = _finished(tokenizer, asked, before) or (None, "")
    if start is not None and start.startswith(behind) and not start[len(behind) :].strip():
        lead = start[len(behind) :]
    elif start is not None and (start.startswith(behind) or _thinks(behind, start)):
        notes.append(
            f"answers stand behind {_tail(start)}, as in the chat template's finished turns; its generation prompt ends "
            f"otherwise: {_tail(behind)}"
        )
        behind = start
    elif not (behind[-1:].isspace() or behind.endswith(tuple(controls))):
        lead = " "
    bare = behind.rstrip(" ")  # a space goes with the word behind it, as tokenizers have it
    lead, behind = behind[len(bare) :] + lead, bare
    end = max((text for text in controls if rest.lstrip().startswith(text)), key=len, default="")
    return ChatFrame(before, behind, lead, end if end != tokenizer.eos_token else "", tuple(notes), prompted)


def frame_of(base: FrozenBase) -> ChatFrame | None:
    """The frame of a base's chat template; None where it has none, or none that an answer can follow."""
    if not has_chat_template(base.tokenizer):
        return None
    try:
        return chat_frame(base.tokenizer, base.spelling.controls)
    except ConfigError:
        return None


def text_place(template: Template, base: FrozenBase) -> int:
    """Where a text prompt goes into an input: how many characters of the template's first literal stand before it.

    It stands in front of all words that are the user's: at the beginning; in the base's chat template at the beginning of
    the user's message; where an author wrote control tokens in another way, behind them, and in front of the line with the
    first column.
    """
    first, controls = template.parts[0][0], base.spelling.controls
    if has_chat_template(base.tokenizer):
        try:
            at = _message_in(first, chat_frame(base.tokenizer, controls), controls)
        except ConfigError:
            at = None
        if at is not None:
            return at
    behind = max((found.end() for text in controls for found in re.finditer(re.escape(text), first)), default=0)
    return max(behind, first.rfind("\n") + 1) if behind else 0


def _message_in(first: str, frame: ChatFrame, controls: Collection[str]) -> int | None:
    """Where the user's message begins in what stands before an input's first column; None where that is not in the frame."""
    if frame.before and first.startswith(frame.before):
        return len(frame.before)
    head = frame.head(controls)
    at = first.rfind(head) if head else -1
    return at + len(head) if at >= 0 else None


def with_text(parts: Parts, text: str, at: int) -> Parts:
    """An input, in parts, with a text prompt at its :func:`text_place`; whatever it says is text, no control tokens."""
    (first, value), *rest = parts
    return [(first[:at], text), (first[at:], value), *rest]


def words_of(
    columns: Sequence[str],
    answer: str,
    frame: ChatFrame | None,
    *,
    generates: bool,
    headed: bool = False,
    begins: str | None = None,
) -> dict[str, str]:
    """The templates of a first task file, in a frame or plainly: the columns as the user's message, the answer behind it.
    Before a head stands the message alone. A plain input begins with what the base's tokenizer `begins` texts with.

    Raises:
        ConfigError: a head chooses among labels, and answers are none.
    """
    said = f"{{{columns[0]}}}"
    if len(columns) > 1:
        said = "\n".join(f"{literal(name.strip().capitalize())}: {{{name}}}" for name in columns)
    if headed and generates:
        raise ConfigError(
            f"the answers of {answer!r} are no labels, and this base answers through a head, which writes no text; take "
            "another base, or another column (--label)"
        )
    if headed:
        return {"task_type": "SEQ_CLS", "input": said, "target": f"{{{answer}}}"}
    if frame is None:
        said = literal(begins or "") + said
        return {"input": f"{said}\n{literal(answer.strip().capitalize())}:", "target": f" {{{answer}}}"}
    end = literal(frame.end) if generates else ""
    return {
        "input": literal(frame.before) + said + literal(frame.behind),
        "target": f"{literal(frame.lead)}{{{answer}}}{end}",
    }


def _render(tokenizer: Any, turns: list[dict[str, str]], begin_answer: bool, template: str | None = None) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, add_generation_prompt=begin_answer, enable_thinking=False
        )
    except Exception as error:  # templates come with models, and raise whatever they like
        raise ConfigError(f"it refuses a single message of the user: {reason_of(error)}; write `input` without it") from None
    return text


def _around(text: str, message: str) -> tuple[str, str]:
    """What stands before a message and behind it."""
    count = text.count(message)
    if not count:
        raise ConfigError("it changes what a message says, or leaves it out; write `input` without it")
    if count > 1:
        raise ConfigError(f"it says a message {count} times; write `input` without it")
    before, _, behind = text.partition(message)
    return before, behind


def _finished(tokenizer: Any, asked: dict[str, str], before: str) -> tuple[str, str] | None:
    """What stands between a message and its answer in a finished turn, and behind the answer; None where the template has
    none."""
    turns = [asked, {"role": "assistant", "content": _ANSWERED}]
    try:
        text, behind = _around(_render(tokenizer, turns, False), _ANSWERED)
    except ConfigError:
        return None
    start = before + asked["content"]
    return (text.removeprefix(start), behind) if text.startswith(start) else None


def _thinks(behind: str, start: str) -> bool:
    """Whether a generation prompt goes on from where finished turns have their answer, and begins what it does not end, such
    as `<think>`."""
    more = behind[len(start) :] if behind.startswith(start) else ""
    return any(f"</{tag}>" not in more for tag in re.findall(r"<(\w+)>", more))


def _tail(text: str) -> str:
    return short(text[-40:], 80)


def _date_in(tokenizer: Any, asked: dict[str, str], before: str, behind: str) -> str | None:
    """The date, where the template says it."""
    template = tokenizer.get_chat_template()
    if "strftime_now" not in template:
        return None
    now = before + _ASKED[0] + behind
    stopped = "{% macro strftime_now(format) %}" + _CLOCK + "{% endmacro %}" + template
    try:
        other = _render(tokenizer, [asked], True, stopped)
    except ConfigError:
        return "as it is"
    if _CLOCK not in other:
        return None if other == now else "as it is"
    return now[other.index(_CLOCK) : len(now) - len(other) + other.rindex(_CLOCK) + 1]
