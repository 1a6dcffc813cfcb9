"""Whether the rows that a version serves, or those of a file, still look like those that it was tuned for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, DataError
from softprompt.evaluation.reference import Reference, Seen, Tally, answers_of, confidence_of
from softprompt.evaluation.statistics.drift_tests import LEAST_ROWS, LEVEL, Verdict, judge_rows
from softprompt.library.binding import check_before_loading
from softprompt.library.library import library_or_current
from softprompt.lifecycle.remake import named_base
from softprompt.progress import Progress, Silent, loading_torch
from softprompt.registry.records import Record
from softprompt.registry.traffic.windows import key_of
from softprompt.rows.sources import find_file
from softprompt.rows.tables import read_table
from softprompt.tasks.examples import remark_on_cut
from softprompt.tasks.form import Form
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.bases.base import BaseLike, FrozenBase
    from softprompt.library.library import Library
    from softprompt.registry.records import Version
    from softprompt.rows.places import PlacedRows

MOST_ROWS = 2048
"""Rows of a file that are answered and judged: so many, from its beginning to its end."""
HOURS = 24.0
"""What servers saw before that is not looked at."""
AT_ONCE = 256

FileName = str | os.PathLike[str]


@dataclass(frozen=True)
class Drifted(Record):
    """One kind of figure of a version's rows, tested against its reference."""

    task: str
    version: int
    what: str
    """`inputs` (where they lie), `length` (in tokens), `outputs` (shares of labels, or lengths) or `confidence`."""
    statistic: str
    value: float
    threshold: float | None
    """Above it they have drifted; None where the rows are too much alike for a test."""
    drifted: bool
    rows: int
    p_value: float
    false_alarm_rate: float
    """Of a look, over all of its rows together."""
    beside: str
    """The rows of then that they are most like: `tuned` (training and validation), `judged` (test) or `given`."""
    reference_rows: int
    reference: float | None
    """Of those the mean: tokens, confidence, characters of answers, or the share of the label that moved most."""
    observed: float
    """The same of the rows; of inputs how far their mean lies from the reference's, in standard deviations."""
    detail: str
    """Of outputs that label."""
    source: str
    """Whose rows: a file, or how many servers'."""
    since: str | None
    """Of servers, when the oldest row came."""


@dataclass(frozen=True)
class Look:
    """A version's rows beside its reference."""

    version: Version
    reference: Reference
    tally: Tally
    verdicts: tuple[Verdict, ...]
    source: str
    since: str | None
    level: float

    @property
    def rows(self) -> list[Drifted]:
        """A row for each kind of figure."""
        named: dict[str, Any] = {"task": self.version.task, "version": self.version.number, "false_alarm_rate": self.level}
        return [Drifted(**named, **vars(one), source=self.source, since=self.since) for one in self.verdicts]


def drift(
    ref: str,
    *,
    data: FileName | None = None,
    library: Library | None = None,
    base: BaseLike = None,
    level: float = LEVEL,
    hours: float = HOURS,
    progress: Progress | None = None,
) -> list[Drifted]:
    """Whether what servers saw of a version lately, or the rows of a file, look like the rows that it was tuned for: a row
    for each kind of figure; none where there is nothing to judge, which `progress` is told.

    Args:
        ref: TASK, TASK@N or TASK@ALIAS.
        data: rows to judge in the place of what servers saw; they are answered for that, and need no answers.
        library: by default the one in the current home.
        base: for `data`, a base that is loaded already, or how to load one; by default as the version names it.
        level: the rate of false alarms of this look.
        hours: servers that saw nothing for longer are left out.
        progress: where to report to.

    Raises:
        NotFound: there is no such version.
        ConfigError: there is no reference for rows of a file.
        DataError: the rows are wrong.
        FingerprintMismatch: the base is another one than the version's.
    """
    with library_or_current(library) as opened:
        found = look(ref, data=data, library=opened, base=base, level=level, hours=hours, progress=progress)
        return [] if found is None else found.rows


def look(
    ref: str,
    *,
    library: Library,
    data: FileName | None = None,
    base: BaseLike = None,
    level: float = LEVEL,
    hours: float = HOURS,
    progress: Progress | None = None,
) -> Look | None:
    """What :func:`drift` tells, with what it is told from; None where there is nothing to judge."""
    shown = progress or Silent()
    version, windows = library.registry.resolve(ref), library.registry.windows
    told = windows.reference(version)
    reference = Reference.read(told)
    if reference is None:
        missing = ConfigError(
            f"{version.ref} has no reference, as it was not trained here or before references were kept; make one of rows "
            f"like those that it was tuned for: softprompt drift {version.ref} --reference FILE"
        )
        if data is not None:
            raise missing
        shown.warn(str(missing))
        return None
    since = None
    if data is not None:
        loaded, form, rows = _open(library, version, data, base, shown)
        tally, source = reference.count(loaded, answer_rows(library, version, form, loaded, rows, shown)), os.fspath(data)
    else:
        if users := library.registry.personal.of(version.task):
            shown.note(
                f"{plural(len(users), 'user')} with a prompt of their own of {version.task!r}: what those answered is not "
                "among these rows, as nothing watches them"
            )
        seen = [one for one in windows.of(version, hours=hours) if one.tally.get("reference") == key_of(told)]
        if not seen:
            shown.warn(
                f"{version.ref} had no traffic in {hours:g} hours: nothing is judged; serve it (`softprompt serve`), "
                "or give rows with --data FILE"
            )
            return None
        tally = reduce(add, (Tally.read(one.tally) for one in seen))
        source, since = plural(len(seen), "server"), min(one.began_at for one in seen)
    if tally.rows < LEAST_ROWS:
        shown.warn(
            f"{version.ref}: {plural(tally.rows, 'row')} of {source}, and {LEAST_ROWS} are needed: nothing is judged yet"
        )
    form = Form.of_card(version.card)
    verdicts = judge_rows(reference.counted_as(form), tally, level=level, sets=form.is_set)
    return Look(version, reference, tally, tuple(verdicts), source, since, level)


def keep_reference(
    ref: str, rows: FileName, *, library: Library, base: BaseLike = None, progress: Progress | None = None
) -> Reference:
    """Make a reference for a version of the rows of a file, which it answers, and keep it. They should be like those that it
    was tuned for, and not those themselves: of them it is too sure.

    Raises:
        NotFound: there is no such version.
        DataError: the rows are wrong, or fewer than :data:`~softprompt.evaluation.statistics.drift_tests.LEAST_ROWS`.
        FingerprintMismatch: the base is another one than the version's.
    """
    shown = progress or Silent()
    library.registry.database.check_writable()
    version = library.registry.resolve(ref)
    loaded, form, read = _open(library, version, rows, base, shown)
    if len(read) < LEAST_ROWS:
        raise DataError(f"{os.fspath(rows)}: {plural(len(read), 'row')} make no reference; give {LEAST_ROWS} or more")
    seen = answer_rows(library, version, form, loaded, read, shown)
    made = Reference.of(loaded, {"given": ([row.ids for row in seen], seen)})
    library.registry.windows.set_reference(version, made.told(), Path(os.fspath(rows)).name)
    return made


def answer_rows(
    library: Library, version: Version, form: Form, base: FrozenBase, rows: PlacedRows, progress: Progress
) -> list[Seen]:
    """Rows as they are tallied, answered by a version as it would serve them; that inputs were cut is told."""
    from softprompt.serving.inputs import encode_inputs, text_of_input
    from softprompt.serving.offline import Service
    from softprompt.serving.residents.resident import load_resident

    service, resident = Service(library, base=base), load_resident(library, version, base)
    seen, cut = list[Seen](), list[int]()
    with progress.stage("answer", len(rows)) as advance:
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            encoded = encode_inputs(base, resident, [text_of_input(form, row, "a row") for row in some])
            for one, said in zip(encoded, service.predict(some, version.ref), strict=True):
                ids = (*one.front, *one.ids)
                if one.truncated:
                    cut.append(len(seen))
                seen.append(Seen(ids, answers_of(form, said.output), confidence_of(form, said.scores)))
            advance(len(some), "")
    if cut:
        progress.warn(remark_on_cut(version.ref, len(cut), len(rows), rows.where(cut[0])))
    return seen


def _open(
    library: Library, version: Version, data: FileName, base: BaseLike, progress: Progress
) -> tuple[FrozenBase, Form, PlacedRows]:
    """The base of a version, its form, and the rows of a file that have an input; what is wrong with them is told before the
    base is loaded."""
    form, name = Form.of_card(version.card), os.fspath(data)
    read = read_table(find_file(name, Path.cwd()), column=form.asked_columns[0])
    table, whole = read.placed(name), set(form.asked_columns) <= set(read.columns)
    places = [place for place, row in enumerate(table) if not (whole and form.is_blank(row))]
    if not places:
        raise DataError(f"{name}: no row has anything in {', '.join(form.asked_columns)}; give rows with an input")
    for place in places:
        form.texts(table[place], table.where(place))
    chosen = places[:: -(-len(places) // MOST_ROWS)]
    if len(chosen) < len(places):
        progress.note(f"{len(chosen)} of {len(places)} rows are judged, from the first to the last")
    check_before_loading(version, base, named_base(library, version))
    with loading_torch(progress):
        from softprompt.lifecycle.loaded import load_base  # torch, which windows need not

    return load_base(library, version, base, progress), form, table.part(chosen)
