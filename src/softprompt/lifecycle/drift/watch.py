"""A server's watch over what its versions are asked and answer: a sliding window of each, tested against its reference.

The event loop only queues rows; a thread of its own tallies them, looks whether they drifted, and stores the windows, so
that `softprompt drift` sees those of all servers. What is kept of rows are sums; texts only where rows are to be reviewed.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from softprompt.errors import NotFound, SoftPromptError
from softprompt.evaluation.reference import Reference, Seen, Tally
from softprompt.evaluation.statistics.drift_tests import LEVEL, Verdict, judge_rows
from softprompt.registry.records import now
from softprompt.registry.traffic.reviews import Review
from softprompt.registry.traffic.windows import Window, key_of
from softprompt.serving.monitor import OTHER
from softprompt.tasks.form import Form
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.lifecycle.drift.webhook import Webhook
    from softprompt.serving.monitor import Monitor

BUCKET, BUCKETS = 64, 16
"""Rows of a bucket, and buckets of a window; a look is taken with each bucket that is full."""
EVERY_S = 5.0
"""Seconds between two times that windows are stored."""
REREAD_S = 60.0
"""Seconds after which a version's reference is read again."""
QUIET_S = 3600.0
"""Seconds after an alert in which the same version gives no other: what began meanwhile, and lasts, is told behind them."""
MOST_VERSIONS, MOST_QUEUED, MOST_REVIEWS = 1000, 4096, 256
"""Versions that are watched, the last ones asked; rows of one that wait for the thread; and rows for review that do."""

Key = tuple[str, str, int]
"""Tenant, task and number of a version."""

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Watched:
    """One version."""

    queue: deque[Seen] = field(default_factory=lambda: deque(maxlen=MOST_QUEUED))
    reviews: deque[Review] = field(default_factory=lambda: deque(maxlen=MOST_REVIEWS))
    buckets: deque[tuple[str, Tally]] = field(default_factory=lambda: deque(maxlen=BUCKETS))
    """When each began, and its rows."""
    reference: Reference | None = None
    reference_key: str = ""
    sets: bool = False
    read_at: float = -math.inf
    unseen: int = 0
    """Rows since the last look."""
    unstored: bool = False
    verdicts: list[Verdict] = field(default_factory=list)
    told: bool = False
    """Whether an alert was given of the drift that lasts."""
    alerted_at: float = -math.inf

    @property
    def tally(self) -> Tally:
        """Of the whole window."""
        return reduce(add, (tally for _, tally in self.buckets), Tally())


class Watcher:
    """Watches all versions that a server answers with; an observer of its monitor."""

    def __init__(
        self,
        library: Library,
        *,
        level: float = LEVEL,
        review_below: float | None = None,
        webhook: Webhook | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = EVERY_S,
    ) -> None:
        """Watch versions of a library, whatever the tenant.

        Args:
            library: any tenant's.
            level: the rate of false alarms of a look.
            review_below: rows with labels that are answered with less confidence are kept for review, as text.
            webhook: told when a version begins to drift.
            clock: seconds that never go back.
            every_s: seconds between two times that windows are stored.
        """
        self.server = secrets.token_hex(8)
        self._library, self._level, self._review_below, self._webhook = library, level, review_below, webhook
        self._clock, self._every_s = clock, every_s
        self._watched: OrderedDict[Key, _Watched] = OrderedDict()
        self._lock = threading.Lock()  # of the dictionary; of a version's fields the thread alone knows more than the queues
        self._wake, self._closed = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._base: FrozenBase | None = None
        self._told_at = -math.inf
        self.lost = 0
        """Rows for review that were given up, as they could not be stored before others came."""

    def begin(self, base: FrozenBase, monitor: Monitor) -> None:
        """Rows come from now on, as this base reads them."""
        self._base = base
        monitor.registry.register(_Gauges(self, monitor))
        self._thread = threading.Thread(target=self._run, name="drift-watch", daemon=True)
        self._thread.start()

    def saw(self, tenant: str, task: str, version: int, seen: Seen, text: str | None, output: str) -> None:
        """A row was answered."""
        key = (tenant, task, version)
        watched = self._found(key)
        watched.queue.append(seen)
        if self._review_below is not None and text is not None and seen.confidence < self._review_below:
            row = Review(0, task, version, text, output, round(seen.confidence, 4), created_at=now())
            with self._lock:
                self.lost += len(watched.reviews) == MOST_REVIEWS
                watched.reviews.append(row)
        if len(watched.queue) == BUCKET:
            self._wake.set()

    def close(self) -> None:
        """Store what was seen, and end."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None
        if self._webhook is not None:
            self._webhook.close()

    def snapshot(self) -> Iterator[tuple[Key, Tally, list[Verdict]]]:
        """Every version with its window, and what the last look at it told."""
        with self._lock:
            watched = list(self._watched.items())
        for key, one in watched:
            if one.buckets:
                yield key, one.tally, one.verdicts

    def _found(self, key: Key) -> _Watched:
        """What is kept of a version, the one asked last; of those asked longest ago nothing is, beyond the bound."""
        with self._lock:
            watched = self._watched.setdefault(key, _Watched())
            self._watched.move_to_end(key)
            while len(self._watched) > MOST_VERSIONS:
                _, gone = self._watched.popitem(last=False)
                self.lost += len(gone.reviews)
            return watched

    def _run(self) -> None:
        stored_at = self._clock()
        while True:
            self._wake.wait(self._every_s)
            self._wake.clear()
            closed = self._closed
            due = closed or self._clock() - stored_at >= self._every_s
            try:
                self.work(store=due)
            except Exception as error:  # the registry is away, or its bytes are: the answers go on
                self._tell("the watch over drift failed", error)
            if due:
                stored_at = self._clock()
            if closed:
                left = sum(len(one.reviews) for one in self._watched.values())
                if left:
                    told = "is lost, as it" if left == 1 else "are lost, as they"
                    _LOG.warning("%s for review %s could not be stored", plural(left, "row"), told)
                return

    def work(self, *, store: bool) -> None:
        """Tally what is queued, look where a bucket is full, and store windows if that is asked."""
        with self._lock:
            watched = list(self._watched.items())
        for key, one in watched:
            try:
                if one.queue and (store or len(one.queue) >= BUCKET):
                    self._take(key, one, store)
                if one.unseen >= BUCKET:
                    self._look(key, one)
            except Exception as error:  # the registry is away, or the version is wrong: the others are watched on
                self._tell("the watch over drift failed", error)
        if store:
            self._store(watched)

    def _take(self, key: Key, one: _Watched, store: bool) -> None:
        if self._clock() - one.read_at >= REREAD_S:
            self._read(key, one)
        while len(one.queue) >= (1 if store else BUCKET):
            room = BUCKET - one.buckets[-1][1].rows if one.buckets else 0
            if room <= 0:
                one.buckets.append((now(), Tally()))
                room = BUCKET
            some = [one.queue.popleft() for _ in range(min(room, len(one.queue)))]
            if one.reference is None or self._base is None:
                one.buckets.clear()
                one.queue.clear()
                return
            began, tally = one.buckets[-1]
            # A new one, so that whoever reads meanwhile sees the old one whole.
            one.buckets[-1] = (began, tally + one.reference.count(self._base, some))
            one.unseen += len(some)
            one.unstored = True

    def _read(self, key: Key, one: _Watched) -> None:
        windows = self._of(key[0]).registry.windows
        version = windows.find(key[1], key[2])
        one.read_at = self._clock()
        told = None if version is None else windows.reference(version)
        if version is not None and key_of(told) != one.reference_key:
            form, found = Form.of_card(version.card), Reference.read(told)
            one.reference, one.reference_key = found and found.counted_as(form), key_of(told)
            one.sets = form.is_set
            one.buckets.clear()  # which were scaled by the one before

    def _look(self, key: Key, one: _Watched) -> None:
        one.unseen = 0
        if one.reference is None:
            return
        one.verdicts = judge_rows(one.reference, one.tally, level=self._level, sets=one.sets)
        moved = [verdict for verdict in one.verdicts if verdict.drifted]
        if not moved:
            one.told = False
        elif not one.told and self._clock() - one.alerted_at >= QUIET_S:
            one.told, one.alerted_at = True, self._clock()
            self._alert(key, moved)

    def _alert(self, key: Key, moved: list[Verdict]) -> None:
        tenant, task, version = key
        told = ", ".join(f"{one.what} ({one.statistic} {one.value:.3g}, above {one.threshold or 0:.3g})" for one in moved)
        _LOG.warning("%s@%d of tenant %s drifts from the rows that it was tuned for: %s", task, version, tenant, told)
        if self._webhook is not None:
            drifted = [vars(one) for one in moved]
            named = {"event": "drift", "tenant": tenant, "task": task, "version": version, "server": self.server}
            self._webhook.send(named | {"at": now(), "false_alarm_rate": self._level, "drifted": drifted})

    def _store(self, watched: list[tuple[Key, _Watched]]) -> None:
        found: dict[str, dict[tuple[str, int], Window]] = {}
        for (tenant, task, number), one in watched:
            if one.unstored and one.buckets:
                tally, ended = one.tally, now()
                told = tally.told() | {"reference": one.reference_key}
                window = Window(self.server, tally.rows, told, one.buckets[0][0], ended)
                found.setdefault(tenant, {})[task, number] = window
                one.unstored = False
        for tenant, windows in found.items():
            try:
                self._of(tenant).registry.windows.store(self.server, windows)
            except SoftPromptError as error:
                self._tell("windows cannot be stored", error)
                for task, number in windows:
                    if (again := self._watched.get((tenant, task, number))) is not None:
                        again.unstored = True
        for key, one in watched:
            rows = [one.reviews.popleft() for _ in range(len(one.reviews))]
            if rows:
                try:
                    self._of(key[0]).registry.reviews.add(key[1], rows)
                except NotFound:
                    continue
                except Exception as error:
                    self._put_back(key, one, rows)
                    lost = f" ({self.lost} are lost)" if self.lost else ""
                    self._tell(f"rows for review cannot be stored, which is tried again{lost}", error)

    def _put_back(self, key: Key, one: _Watched, rows: list[Review]) -> None:
        """Keep rows for the next time, before those that came meanwhile; beyond the bound the oldest go."""
        with self._lock:
            room = MOST_REVIEWS - len(one.reviews) if self._watched.get(key) is one else 0
            kept = rows[max(0, len(rows) - room) :]
            one.reviews.extendleft(reversed(kept))
            self.lost += len(rows) - len(kept)

    def _of(self, tenant: str) -> Library:
        return self._library if tenant == self._library.tenant else self._library.for_tenant(tenant)

    def _tell(self, what: str, error: Exception) -> None:
        if self._clock() - self._told_at >= REREAD_S:
            self._told_at = self._clock()
            _LOG.warning("%s: %s: %s", what, type(error).__name__, error)


class _Gauges(Collector):
    """What is seen of each version, whenever the counters are read."""

    def __init__(self, watcher: Watcher, monitor: Monitor) -> None:
        self._watcher, self._monitor = watcher, monitor

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        lost = "Rows for review that were given up, as the registry could not store them before others came."
        yield CounterMetricFamily("softprompt_reviews_lost", lost, self._watcher.lost)
        names = ("tenant", "task", "version")

        def gauge(name: str, what: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"softprompt_{name}", what, labels=(*names, *more))

        drifted = gauge("drifted", "1 where rows drifted from those that the version was tuned for.", "what")
        ratio = gauge("drift_ratio", "The statistic over its threshold: above 1 rows have drifted.", "what")
        rows = gauge("window_rows", "Rows in the sliding window that is tested.")
        sure = gauge("window_confidence", "Mean confidence over the window.")
        for (tenant, task, version), tally, verdicts in self._watcher.snapshot():
            if self._monitor.labels(tenant, task)[1] == OTHER:
                continue
            own = (tenant, task, str(version))
            rows.add_metric(own, tally.rows)
            if count := tally.confidence.total():
                sure.add_metric(own, tally.sure / count)
            for verdict in verdicts:
                drifted.add_metric((*own, verdict.what), float(verdict.drifted))
                ratio.add_metric((*own, verdict.what), verdict.value / verdict.threshold if verdict.threshold else 0.0)
        yield from (drifted, ratio, rows, sure)
