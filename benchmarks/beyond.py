"""What prompts cost past one machine, by arithmetic: serving, training, memory and the wire, for bases of 1B, 8B and 70B.

    python benchmarks/beyond.py --json
    python benchmarks/beyond.py --price 2.5 --tokens-in 1000 --tokens-out 200
    python benchmarks/beyond.py --markdown

Nothing runs: each figure is a formula of the shapes of a base, of what the log has measured, and of assumptions, which are
the options and are printed with the figures. `source` says which: `measured` (in the log, on a CPU and smaller bases: that
it holds elsewhere is an assumption), `assumed` (put your own), `derived` (from the two). A price of 1 makes costs hours of a
device. Units: bytes, seconds, tokens; GB is 10^9 bytes.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # so that one benchmark can use another

from benchmarks.row import Row, print_row

HALF, SINGLE = 2, 4
"""Bytes of a number: of the base and of keys and values, and of what is trained."""


@dataclass(frozen=True)
class Shape:
    """A Llama of these dimensions."""

    name: str
    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> int:
        """Weights of the layers' products: two operations each for a token."""
        attention = 2 * self.width * self.head_width * (self.heads + self.key_heads)
        return self.layers * (attention + 3 * self.width * self.inner)

    @property
    def head(self) -> int:
        """Weights of the output head, used where logits are asked for."""
        return self.vocabulary * self.width

    @property
    def params(self) -> int:
        """All weights, norms and embeddings too."""
        return self.linear + self.head * (1 if self.tied else 2) + (2 * self.layers + 1) * self.width

    @property
    def weights(self) -> int:
        """Bytes of the base, in 16 bits."""
        return HALF * self.params

    @property
    def kept(self) -> int:
        """Bytes of one token's keys and values."""
        return 2 * self.layers * self.key_heads * self.head_width * HALF

    def attention(self, pairs: float) -> float:
        """Operations of scores and sums over so many pairs of tokens."""
        return 4.0 * self.layers * self.heads * self.head_width * pairs


SHAPES = (
    Shape("1B", 16, 2048, 8192, 32, 8, 64, 128256, True),
    Shape("8B", 32, 4096, 14336, 32, 8, 128, 128256, False),
    Shape("70B", 80, 8192, 28672, 64, 8, 128, 128256, False),
)
"""Those of Llama 3.1 and 3.2."""


@dataclass(frozen=True)
class Given:
    """What the arithmetic starts from. Each is an option of the same name."""

    price: float = 1.0
    """assumed: of a device, an hour, in any money"""
    peak: float = 990e12
    """assumed: operations a second of a device in 16 bits, as its data sheet has them"""
    bandwidth: float = 3.35e12
    """assumed: bytes a second of its memory, likewise"""
    memory: float = 80e9
    """assumed: bytes of its memory"""
    wire: float = 3.1e9
    """assumed: bytes a second between two machines (25 Gbit/s)"""
    latency: float = 50e-6
    """assumed: seconds of a message between them"""
    train_share: float = 0.5
    """measured: of the peak that a step reaches (0.44 to 0.61 on a base of 135M on a CPU)"""
    serve_share: float = 0.5
    """assumed: of peak and of bandwidth that a server reaches"""
    busy: float = 0.7
    """assumed: of a replica's requests a second that it may get before there should be another"""
    virtual: int = 20
    """assumed: virtual tokens of a prompt"""
    rows_at_once: int = 64
    """assumed: rows that generate at the same time (`--engine-rows`)"""
    tokens_in: int = 200
    """assumed: tokens of a request's input"""
    tokens_out: int = 20
    """assumed: tokens of its answer"""
    steps: int = 150
    """assumed: steps of a training"""
    rows: int = 32
    """assumed: rows of a step"""
    row_tokens: int = 40
    """assumed: tokens of a row"""
    judged: int = 3000
    """assumed: rows that baselines, validations and the test run, forwards alone"""
    chunk: float = 8e9
    """assumed: bytes of activations of a chunk of rows, which bound a step's memory whatever the bank"""
    bank: int = 16
    """assumed: prompts of a bank"""


def devices(shape: Shape, given: Given) -> int:
    """Of a replica: a power of two, so that weights take 80% of the memory at most."""
    return 1 << max(0, math.ceil(math.log2(shape.weights / (0.8 * given.memory))))


def request_seconds(shape: Shape, given: Given, virtual: int, *, cold: bool = False) -> float:
    """Of one replica for one request, behind a prompt of so many tokens; `cold`: its keys and values are not held."""
    many, out, read = devices(shape, given), given.tokens_out, given.tokens_in + (virtual if cold else 0)
    rate, speed = given.serve_share * given.peak * many, given.serve_share * given.bandwidth * many
    before = virtual if not cold else 0
    prefill = 2.0 * shape.linear * read + shape.attention(read * before + read * read / 2) + 2.0 * shape.head
    context = virtual + given.tokens_in + out / 2
    step = max(
        (shape.weights + given.rows_at_once * context * shape.kept) / speed,
        given.rows_at_once * (2.0 * (shape.linear + shape.head) + shape.attention(context)) / rate,
    )
    return prefill / rate + (out - 1) * step / given.rows_at_once


def step_operations(shape: Shape, given: Given, processes: int = 1) -> float:
    """Of one prompt's step in one of several processes: forwards, and backwards to the activations alone. Each runs the
    prompt itself, and its share of the rows."""
    rows = given.rows / processes
    pairs = rows * given.row_tokens * (given.virtual + given.row_tokens / 2) + given.virtual**2 / 2
    products = 4.0 * (shape.linear * (given.virtual + rows * given.row_tokens) + shape.head * rows)
    return products + 3 * shape.attention(pairs)  # backwards to both of its factors


def train_seconds(shape: Shape, given: Given) -> float:
    """Of one replica for one prompt, its judging too."""
    judged = given.judged * (2.0 * (shape.linear * given.row_tokens + shape.head))
    total = given.steps * step_operations(shape, given) + judged
    return total / (given.train_share * given.peak * devices(shape, given))


def sent(shape: Shape, given: Given) -> int:
    """Bytes that each process gives to the sum of a step: a gradient and a loss for each prompt of the bank."""
    return given.bank * (given.virtual * shape.width + 1) * SINGLE


def wire_seconds(shape: Shape, given: Given, processes: int) -> float:
    """Of the sum over a ring of machines."""
    if processes == 1:
        return 0.0
    turns = 2 * (processes - 1)
    return turns * (sent(shape, given) / processes / given.wire + given.latency)


def step_seconds(shape: Shape, given: Given, processes: int) -> float:
    """Of a bank's step that so many replicas of the base share."""
    rate = given.train_share * given.peak * devices(shape, given)
    return given.bank * step_operations(shape, given, processes) / rate + wire_seconds(shape, given, processes)


def bank_bytes(shape: Shape, given: Given) -> int:
    """Of a prompt in a bank: vectors, the best ones, gradient, two moments; its keys and values, with their gradient."""
    return 5 * given.virtual * shape.width * SINGLE + 2 * given.virtual * shape.kept


def room(shape: Shape, given: Given) -> float:
    """Bytes beside the weights, over all devices of a replica, of which a tenth is left alone."""
    return 0.9 * given.memory * devices(shape, given) - shape.weights


def serving(shape: Shape, given: Given) -> Row:
    """What a request takes."""
    many, warm = devices(shape, given), request_seconds(shape, given, given.virtual)
    none, cold = request_seconds(shape, given, 0), request_seconds(shape, given, given.virtual, cold=True)
    return {
        "devices": many,
        "requests_per_s": round(1 / warm, 1),
        "per_million": dear(1e6 * warm / 3600 * many * given.price),
        "without_prompt": dear(1e6 * none / 3600 * many * given.price),
        "never_seen": dear(1e6 * cold / 3600 * many * given.price),
        "another_replica_at_per_s": round(given.busy / warm, 1),
    }


def memory(shape: Shape, given: Given) -> Row:
    """What prompts take of a server, and how many fit."""
    rows = given.rows_at_once * (given.virtual + given.tokens_in + given.tokens_out) * shape.kept
    left = max(0.0, room(shape, given) - rows)
    held = given.virtual * shape.kept
    return {
        "weights_gb": round(shape.weights / 1e9, 1),
        "vectors_kb": round(given.virtual * shape.width * SINGLE / 1e3, 1),
        "prefix_file_kb": round(held / HALF * SINGLE / 1e3, 1),
        "held_kb": round(held / 1e3, 1),
        "prompts_that_fit": int(left // held),
    }


def training(shape: Shape, given: Given) -> Row:
    """What a prompt takes to be trained, and how large banks are."""
    many, seconds = devices(shape, given), train_seconds(shape, given)
    tokens = given.virtual + given.rows * given.row_tokens
    return {
        "seconds_each": round(seconds, 2),
        "per_thousand": dear(1000 * seconds / 3600 * many * given.price),
        "full_from": math.ceil(given.peak / given.bandwidth / tokens),
        "bank_mb_each": round(bank_bytes(shape, given) / 1e6, 2),
        "largest_bank": int(max(0.0, room(shape, given) - given.chunk) // bank_bytes(shape, given)),
    }


def parallel(shape: Shape, given: Given, processes: int) -> Row:
    """What a bank's step takes where several replicas share its rows."""
    alone, shared = step_seconds(shape, given, 1), step_seconds(shape, given, processes)
    return {
        "bank": given.bank,
        "processes": processes,
        "sent_kb": round(sent(shape, given) / 1e3, 1),
        "wire_ms": round(1e3 * wire_seconds(shape, given, processes), 2),
        "step_ms": round(1e3 * shared, 2),
        "step_alone_ms": round(1e3 * alone, 2),
        "times_as_fast": round(alone / shared, 2),
        "efficiency": round(alone / shared / processes, 2),
    }


def dear(cost: float) -> float:
    """A cost to three digits."""
    return float(f"{cost:.3g}")


PROCESSES = (2, 8, 32)
SECTIONS = {"serving": serving, "memory": memory, "training": training}


def table(given: Given) -> Iterator[Row]:
    """All rows: what is given, and what follows."""
    for one in fields(Given):
        source, _, what = _said(one.name).partition(": ")
        yield {"section": "given", "name": one.name, "value": getattr(given, one.name), "source": source, "what": what}
    for section, made in SECTIONS.items():
        for shape in SHAPES:
            yield {"section": section, "base": shape.name, "source": "derived", **made(shape, given)}
    for bank in (1, given.bank):
        for shape in SHAPES:
            for processes in PROCESSES:
                found = parallel(shape, replace(given, bank=bank), processes)
                yield {"section": "parallel", "base": shape.name, "source": "derived", **found}


def _said(name: str) -> str:
    """The line below a field of what is given."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith(f"    {name}: "))
    return lines[at + 1].strip().strip('"')


def markdown(given: Given) -> str:
    """The tables, as the page has them."""
    found: dict[str, list[Row]] = {}
    for row in table(given):
        found.setdefault(str(row.pop("section")), []).append(row)
    return "\n".join(f"### {section.capitalize()}\n\n{_table(rows)}" for section, rows in found.items())


def _table(rows: list[Row]) -> str:
    lines = ["| " + " | ".join(name.replace("_", " ") for name in rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(map(_shown, row.values())) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, float) and not 1e-3 <= value < 1e9:
        return f"{value:.3g}"
    return f"{value:,.10g}" if isinstance(value, int | float) else str(value)


def read(arguments: list[str] | None = None) -> tuple[Given, argparse.Namespace]:
    """What is given, by options; and how to print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for one in fields(Given):
        kind = type(one.default)
        what = _said(one.name).replace("%", "%%")
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=kind, default=one.default, help=what)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--markdown", action="store_true", help="tables, as docs/beyond.md has them")
    asked = parser.parse_args(arguments)
    given = Given(**{one.name: getattr(asked, one.name) for one in fields(Given)})
    for one in fields(Given):
        if not getattr(given, one.name) > 0:
            parser.error(f"--{one.name.replace('_', '-')} is {getattr(given, one.name)}; give a number above 0")
    return given, asked


def main() -> None:
    """Print all rows."""
    given, asked = read()
    if asked.markdown:
        print(markdown(given))
        return
    for row in table(given):
        print_row(row, asked.json)


if __name__ == "__main__":
    main()
