"""Who uses the server: clients that ask all the time and keep every answer, and the one who kills it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.services.served import PATIENCE, Served
from tests.story.desk import Say
from tests.story.rows import WRITES, rows_of

PAUSE_S = 0.25
"""Between two requests of a client."""
USERS = [f"user-{number}" for number in range(12)]


@dataclass(frozen=True)
class Answer:
    """What a client was answered, and when."""

    tenant: str
    asked: str
    user: str
    text: str
    model: str
    system_fingerprint: str
    output: str
    scores: Mapping[str, float] | None
    sent: float
    got: float


class Person:
    """A client of one tenant."""

    def __init__(self, url: str, tenant: str, key: str) -> None:
        self.tenant, self._url = tenant, url
        self._http = httpx2.Client(timeout=60, headers={"authorization": f"Bearer {key}"})

    def close(self) -> None:
        self._http.close()

    def post(self, path: str, body: Mapping[str, Any]) -> httpx2.Response:
        """Ask once."""
        return self._http.post(f"{self._url}{path}", json=body)

    def insist(self, path: str, body: Mapping[str, Any]) -> Any:
        """Ask again while the server is away."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                answer = self.post(path, body)
            except httpx2.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code != 503:
                assert answer.status_code == 200, answer.text
                return answer.json()
            time.sleep(0.1)
        raise AssertionError(f"{path} is not answered")

    def ask(self, ref: str, text: str, user: str) -> Answer | httpx2.Response:
        """The answer to a text, or the response that is none."""
        writes, sent = ref.partition("@")[0] == WRITES, time.time()
        body: dict[str, Any] = {"model": ref, "user": user}
        if writes:
            path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": text}]
            body["temperature"] = 0
        else:
            path, body["input"] = "/v1/classify", text
        response = self.post(path, body)
        if response.status_code != 200:
            return response
        said = response.json()
        output = said["choices"][0]["message"]["content"] if writes else said["data"][0]["label"]
        scores = None if writes else said["data"][0]["scores"]
        made = (said["model"], said["system_fingerprint"], output, scores)
        return Answer(self.tenant, ref, user, text, *made, sent, time.time())


class Traffic:
    """A client of each tenant, who asks for what is there."""

    def __init__(self, url: str, keys: Mapping[str, str], seed: int) -> None:
        self.answers: list[Answer] = []
        self.away, self.errors = Counter[str](), Counter[tuple[str, str, int, str]]()
        """How often nobody answered, by kind; and how often there was an error: tenant, reference, status, code."""
        self.known: dict[str, tuple[str, ...]] = dict.fromkeys(keys, ())
        """References that each tenant's client may ask for."""
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._go_on, args=(Person(url, tenant, key), random.Random(f"{seed} {tenant}")))
            for tenant, key in keys.items()
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _go_on(self, person: Person, draw: random.Random) -> None:
        texts = {}
        while not self._ended.wait(PAUSE_S):
            if not (refs := self.known[person.tenant]):
                continue
            ref, user = draw.choice(refs), draw.choice(USERS)
            task = ref.partition("@")[0]
            if task not in texts:
                texts[task] = [row["text"] for row in rows_of(task, 12, "traffic")]
            try:
                answer = person.ask(ref, draw.choice(texts[task]), user)
            except httpx2.TransportError as error:
                self.away[type(error).__name__] += 1
                continue
            if isinstance(answer, Answer):
                self.answers.append(answer)
            else:
                told = answer.json()["error"]  # an error is always told as one
                assert told["message"]
                self.errors[person.tenant, ref, answer.status_code, str(told["code"])] += 1
        person.close()


class Reaper:
    """Kills the server now and then, and starts it again on its port."""

    def __init__(self, start: Callable[[], Served], draw: random.Random, say: Say) -> None:
        self._start, self._draw, self._say = start, draw, say
        self.server, self.kills = start(), 0
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> Reaper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.server.kill()

    @contextmanager
    def away(self) -> Iterator[Served]:
        """The server runs, and stays."""
        with self._lock:
            yield self.server

    def kill(self) -> None:
        """Kill it now."""
        with self._lock:
            self.server.kill()
            self.kills += 1
            self.server = self._start()

    def _go_on(self) -> None:
        while not self._ended.wait(pause := self._draw.uniform(10, 40)):
            self._say(f"  kill -9 of the server, {pause:.1f} s after it was there")
            self.kill()
