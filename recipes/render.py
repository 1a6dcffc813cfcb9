"""How an example with an answer becomes text: many formats, with and without instruction, alone or after others.

A document is a list of pieces `(text, kind)`, kind one of PLAIN, INPUT, ANSWER, END; the kinds become loss weights.
The formats vary so that the base learns to read the task from what is there, which is what a soft prompt will use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

PLAIN, INPUT, ANSWER, END = 0, 1, 2, 3
Piece = tuple[str, int]
Document = list[Piece]


@dataclass(frozen=True, slots=True)
class Task:
    """One wording of one kind of question: where its examples come from and how they are spoken of."""

    draw: Callable[[Random], tuple[str, str]]
    """Makes one (input, answer)."""
    instructions: Sequence[str] = ()
    """Wordings; each a question or an order that makes sense in front of or behind the input."""
    inputs: Sequence[str] = ("Text", "Input")
    """Names of the input field."""
    outputs: Sequence[str] = ("Answer", "Output")
    """Names of the answer field."""
    labels: Sequence[str] = ()
    """All answers there are, where they are few."""
    telling: bool = True
    """Whether the output name or the input itself tells the task, so that no instruction is needed."""
    shots: float = 0.3
    """Share of documents with several examples in a row."""
    longest: int = 1400
    """Characters at most of a document with several examples."""


_SYMBOLS = (
    "A B C D E F G H",
    "1 2 3 4 5 6 7 8",
    "foo bar baz qux zap wug dax fep",
    "red blue green yellow black white pink grey",
    "X Y Z W V U T S",
    "alpha beta gamma delta omega sigma kappa theta",
    "cat dog cow pig hen fox bee ant",
    "up down left right in out on off",
)


def _choices(rng: Random, labels: Sequence[str]) -> str:
    shown = list(labels)
    rng.shuffle(shown)
    style = rng.randrange(5)
    if style == 0:
        return "Choices: " + ", ".join(shown)
    if style == 1:
        return "Options: " + " | ".join(shown)
    if style == 2:
        return "Choose from " + ", ".join(shown[:-1]) + " or " + shown[-1] + "."
    if style == 3:
        return "(" + ", ".join(shown) + ")"
    return "Options:\n" + "\n".join("- " + label for label in shown)


def _one(style: int, names: tuple[str, str], instruction: str, text: str) -> str:
    """The input side of one example; the answer follows after a space."""
    name_in, name_out = names
    if style == 0:
        return f"{name_in}: {text}\n{name_out}:"
    if style == 1:
        return f"{text}\n{name_out}:"
    if style == 2:
        return f"{instruction}\n\n{name_in}: {text}\n{name_out}:"
    if style == 3:
        return f"{instruction}\n{text}\n{name_out}:"
    if style == 4:
        return f"{text}\n\n{instruction}" + ("" if instruction.endswith(("?", ":")) else ":")
    if style == 5:
        return f"Q: {instruction} {text}\nA:"
    if style == 6:
        return f"{instruction} {text}\nAnswer:"
    if style == 7:
        return f"{text}\n{instruction}\n{name_out}:"
    if style == 8:
        return f"Input: {text}\nOutput:"
    if style == 9:
        return f"{text} {('=', '=>', '->')[len(name_out) % 3]}"
    return f"{text}\n{instruction}" + ("" if instruction.endswith(("?", ":")) else "\nAnswer:")


def render(rng: Random, task: Task) -> Document:
    """One document of a task: one example, or some of the same form in a row, ended."""
    names = (rng.choice(task.inputs), rng.choice(task.outputs))
    if rng.random() < 0.1:
        names = (names[0].lower(), names[1].lower())
    instruction = rng.choice(task.instructions) if task.instructions else ""
    many = rng.random() < task.shots
    if not many:
        text, answer = task.draw(rng)
        if instruction and (not task.telling or rng.random() < 0.55):
            style = rng.choice((2, 2, 3, 4, 4, 5, 6, 7, 10))
        else:
            style = rng.choice((0, 0, 1))
        if task.labels and instruction and rng.random() < 0.3:
            instruction = f"{instruction} {_choices(rng, task.labels)}" if style == 2 else instruction
            text = text if style == 2 else f"{text}\n{_choices(rng, task.labels)}"
        return [(_one(style, names, instruction, text), INPUT), (" " + answer, ANSWER), ("", END)]
    swap: dict[str, str] = {}
    if task.labels and len(task.labels) <= 8 and rng.random() < 0.3:
        symbols = rng.choice(_SYMBOLS).split()
        rng.shuffle(symbols)
        swap = dict(zip(task.labels, symbols, strict=False))
    style = rng.choice((0, 0, 1, 8, 9, 9)) if not instruction or rng.random() < 0.75 else rng.choice((4, 5, 6))
    joint = rng.choice(("\n\n", "\n\n", "\n", "\n###\n", "\n---\n")) if style != 9 else rng.choice(("\n", "\n", "\n\n"))
    document: Document = []
    if instruction and style in (0, 1, 8, 9) and rng.random() < 0.5 and not swap:
        lead = instruction
        if task.labels and rng.random() < 0.4:
            lead += " " + _choices(rng, task.labels)
        document.append((lead + "\n\n", INPUT))
    length = 0
    for i in range(rng.randint(6, 12) if swap else rng.randint(2, 8)):
        text, answer = task.draw(rng)
        if length + len(text) > task.longest and i > 1:
            break
        length += len(text) + len(answer) + 20
        head = _one(style, names, instruction, text)
        document.append(((joint if i else "") + head, INPUT))
        known = not swap or i > 1  # the first answers of an arbitrary mapping cannot be known
        document.append((" " + swap.get(answer, answer), ANSWER if known else INPUT))
    document.append(("", END))
    return document


def plain(text: str) -> Document:
    """A document of running text."""
    return [(text, PLAIN), ("", END)]
