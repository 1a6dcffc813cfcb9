"""Benchmarks whose rows are kept in a file, so that nothing is done twice: their options, and what is done with them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.row import Row, print_row


def read_file(file: Path) -> list[Row]:
    """The rows of a file; none where there is none."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def parser_of(about: str | None, *, tasks: Sequence[str], default: Sequence[str], out: Path) -> argparse.ArgumentParser:
    """The options that such benchmarks share."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=list(default))
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, default=150)
    parser.add_argument("--train-rows", type=int, default=2000, help="at most so many, the same for all")
    parser.add_argument("--out", type=Path, default=out, help="where rows are kept")
    parser.add_argument("--summary", action="store_true", help="print tables of the rows that are there, and do nothing")
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    return parser


def run_or_sum_up(
    args: argparse.Namespace,
    run: Callable[[argparse.Namespace], int],
    summaries: Callable[[Iterable[Row]], list[Row]],
    tables: Callable[[Iterable[Row]], Iterator[str]],
) -> None:
    """Do what is missing and end with 1 where something failed; or print what the rows say together."""
    if not args.summary:
        sys.exit(bool(run(args)))
    found = summaries(read_file(args.out))
    if args.json:
        for row in found:
            print_row(row, True)
    else:
        print("\n".join(tables(found)))
