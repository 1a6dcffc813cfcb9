"""A server under mixed load, while prompts are published, promoted and deleted. Every answer is checked.

    python benchmarks/soak.py --json                # 30 minutes
    python benchmarks/soak.py --minutes 2

Starts `softprompt serve` on a library of its own and sends labels, completions, streams, streams that are left half-way, and
requests that are wrong. Each answer names its version by `system_fingerprint` and must equal what the slow twin (the plain
model, one row at a time) says of that version; the version must have been the one meant at some moment around the request.
Nothing may end in a 5xx, and the server's resident set must stay flat. Exits 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that one benchmark can use another

import psutil  # type: ignore[import-untyped]
import torch

from benchmarks.row import print_row
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import result_of
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.answers.kinds import log_softmax
from softprompt.tasks.form import Form

STALE_S = 15.0
"""A moved alias may be served as it was for so long: the check behind an answer waits its turn on a busy machine."""

TIE = 1e-4
TOKENS = 12
LABELS = ("red", "green", "blue")


@dataclass
class Truth:
    """What the slow twin says, version by version."""

    base: FrozenBase
    prompts: dict[str, SoftPrompt] = field(default_factory=dict)
    known: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def scores(self, digest: str, text: str) -> dict[str, float]:
        """The probability of each label."""
        found: dict[str, float] = self._remember(digest, "scores", text, self._scores)
        return found

    def words(self, digest: str, text: str) -> tuple[str, bool]:
        """The greedy continuation, and whether two tokens were tied somewhere in it."""
        found: tuple[str, bool] = self._remember(digest, "words", text, self._words)
        return found

    def _remember(self, digest: str, kind: str, text: str, make: Callable[[SoftPrompt | None, str], Any]) -> Any:
        with self.lock:
            key = (digest, kind, text)
            if key not in self.known:
                self.known[key] = make(self.prompts.get(digest), text)
            return self.known[key]

    def _scores(self, prompt: SoftPrompt | None, text: str) -> dict[str, float]:
        assert prompt is not None
        form = Form.of_card(prompt.card)
        ids = form.encode_inputs(self.base, [form.row_of(text)], len(prompt.vectors_PD)).ids
        engine = OfflineEngine(architecture_of(self.base))
        (scores,) = result_of(engine.score([prompt.vectors_PD], [0], ids, [form.encode_labels(self.base)]))
        return dict(zip(LABELS, map(math.exp, log_softmax(scores)), strict=True))

    @torch.no_grad()
    def _words(self, prompt: SoftPrompt | None, text: str) -> tuple[str, bool]:
        (ids,) = self.base.encode([text])
        front_PD = torch.zeros(0, self.base.width) if prompt is None else prompt.vectors_PD
        new: list[int] = []
        tied = False
        while len(new) < TOKENS:
            embeds = torch.cat([front_PD, self.base.embed(torch.tensor([*ids, *new]))])[None]
            top = self.base.model(inputs_embeds=embeds, use_cache=False).logits[0, -1].topk(2)
            tied = tied or float(top.values[0] - top.values[1]) < TIE
            token = int(top.indices[0])
            if token in self.base.end_ids:
                break
            new.append(token)
        return self.base.decode(new), tied


@dataclass
class Shelf:
    """The library, and what each name has meant when."""

    library: Library
    truth: Truth
    targets: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    """Name to (since, digest), oldest first."""
    numbered: dict[str, str] = field(default_factory=dict)
    """`task@N` to digest."""
    deleted: dict[str, float] = field(default_factory=dict)
    """`task@N` to when."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def publish(self, task: str, seed: int) -> str:
        """A new version of made-up vectors, promoted at once."""
        base = self.truth.base
        draw = torch.Generator().manual_seed(seed)
        length = 1 + int(torch.randint(0, 24, (1,), generator=draw))
        ids = torch.randint(2, base.embedding.weight.shape[0], (length,), generator=draw)
        vectors_PD = base.embed(ids).detach().float() * 1.5
        labelled = task.startswith("label")
        card = Card(
            task=task, base=base.name, fingerprint=base.fingerprint, num_virtual_tokens=length, token_dim=base.width,
            input="Text: {text}\nColour:", labels=LABELS if labelled else None,
            metric="accuracy" if labelled else "exact_match", max_new_tokens=TOKENS, recipe={"seed": seed},
        )  # fmt: skip
        prompt = SoftPrompt(vectors_PD, card)
        with self.truth.lock:
            self.truth.prompts[prompt.digest[:12]] = prompt
        version = self.library.publish(prompt.to_bytes(), base=base.address)
        with self.lock:  # from now on either may be served
            self.numbered[version.ref] = prompt.digest[:12]
            self.targets.setdefault(task, []).append((time.monotonic(), prompt.digest[:12]))
        self.library.promote(version.ref, "production")
        return version.ref

    def drop(self) -> None:
        """Delete a version that no alias points to."""
        with self.lock:
            newest = {refs[-1][1] for refs in self.targets.values()}
            old = [ref for ref, digest in self.numbered.items() if digest not in newest and ref not in self.deleted]
            if not old:
                return
            ref = old[0]
            self.deleted[ref] = time.monotonic()
        self.library.registry.delete(ref)

    def allowed(self, name: str, began: float) -> set[str]:
        """Digests that an answer to this name may come from, for a request that began then and is over now."""
        with self.lock:
            if name in self.numbered:
                return {self.numbered[name]}
            history = self.targets[name]
            ends = [since for since, _ in history[1:]] + [math.inf]
            return {digest for (_, digest), end in zip(history, ends, strict=True) if end >= began - STALE_S}

    def may_be_gone(self, name: str) -> bool:
        """Whether NotFound is a right answer."""
        with self.lock:
            return name in self.deleted

    def names(self, kind: str, draw: random.Random) -> str:
        """A name to ask for: mostly a task, sometimes a version, now and then a deleted one."""
        with self.lock:
            pool = [name for name in self.targets if name.startswith(kind)]
            if draw.random() < 0.2:
                pool = [ref for ref in self.numbered if ref.startswith(kind)]
        return draw.choice(pool)


@dataclass
class Tally:
    """What came of the requests."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def fault(self, what: str) -> None:
        with self.lock:
            self.counts["wrong"] += 1
            if len(self.faults) < 20:
                self.faults.append(what)


WRONG_BODIES = [
    b"{", b"[]", b'{"model": 3}', b'{"model": "nothing-here", "prompt": "x"}', b"\xff\xfe", b'{"model": "words-0"}',
    b'{"model": "words-0", "prompt": ""}', b'{"model": "words-0", "prompt": "x", "temperature": NaN}',
    b'{"model": "words-0", "prompt": "x", "max_tokens": -1}', b'{"model": "words-0", "prompt": "\\ud800"}',
    b'{"model": "words-0", "prompt": "' + b"long " * 3000 + b'"}',
]  # fmt: skip


class Client(threading.Thread):
    """One client that asks until the end."""

    def __init__(self, number: int, port: int, shelf: Shelf, texts: list[str], tally: Tally, ends: float) -> None:
        super().__init__(daemon=True)
        self._draw = random.Random(number)
        self._port, self._shelf, self._texts, self._tally, self._ends = port, shelf, texts, tally, ends

    def run(self) -> None:
        while time.monotonic() < self._ends:
            kind = self._draw.choices(
                [self._classify, self._complete, self._stream, self._leave, self._wrong], [50, 25, 12, 6, 7]
            )[0]
            try:
                kind()
            except (OSError, http.client.HTTPException) as error:
                self._tally.fault(f"{kind.__name__}: {type(error).__name__}: {error}")
            except Exception as error:  # a fault of ours must be seen, and must not end the client
                self._tally.fault(f"{kind.__name__}: {error!r}")

    def _send(self, path: str, body: bytes) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        connection.request("POST", path, body, {"content-type": "application/json"})
        return connection.getresponse()

    def _ask(self, path: str, name: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """A good request's answer; None for one that may be refused."""
        with self._send(path, json.dumps(body).encode()) as response:
            reply = json.loads(response.read())
        self._tally.count(str(response.status))
        if response.status == 429 or (response.status == 404 and self._shelf.may_be_gone(name)):
            return None
        if response.status != 200:
            self._tally.fault(f"{path} {name}: {response.status} {reply}")
            return None
        answer: dict[str, Any] = reply
        return answer

    def _version(self, name: str, fingerprint: str, began: float) -> str | None:
        digest = fingerprint.rpartition("-")[2]
        allowed = self._shelf.allowed(name, began)
        if digest not in allowed:
            self._tally.fault(f"{name}: answered by {digest}, and {allowed} were meant")
            return None
        return digest

    def _classify(self) -> None:
        name, began = self._shelf.names("label", self._draw), time.monotonic()
        texts = self._draw.sample(self._texts, self._draw.choice((1, 1, 1, 4)))
        answer = self._ask("/v1/classify", name, {"model": name, "input": texts})
        if answer is None or (digest := self._version(name, answer["system_fingerprint"], began)) is None:
            return
        for text, row in zip(texts, answer["data"], strict=True):
            expected = self._shelf.truth.scores(digest, text)
            if any(abs(expected[label] - row["scores"][label]) > 1e-4 for label in LABELS):
                self._tally.fault(f"{name} {text!r}: {row['scores']}, and {expected} was right")
        self._tally.count("classified")

    def _complete(self) -> None:
        name, text, began = self._shelf.names("words", self._draw), self._draw.choice(self._texts), time.monotonic()
        answer = self._ask("/v1/completions", name, {"model": name, "prompt": text, "max_tokens": TOKENS})
        if answer is not None:
            self._check(name, text, answer["choices"][0]["text"], answer["system_fingerprint"], began)

    def _stream(self, leave_after: int | None = None) -> None:
        name, text, began = self._shelf.names("words", self._draw), self._draw.choice(self._texts), time.monotonic()
        body = {"model": name, "prompt": text, "max_tokens": TOKENS, "stream": True}
        with self._send("/v1/completions", json.dumps(body).encode()) as response:
            self._tally.count(str(response.status))
            if response.status != 200:
                reply = response.read()
                if response.status != 429 and not (response.status == 404 and self._shelf.may_be_gone(name)):
                    self._tally.fault(f"stream {name}: {response.status} {reply!r}")
                return
            written, fingerprint, seen = "", "", 0
            while line := response.readline():
                if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    self._tally.fault(f"stream {name}: {chunk}")
                    return
                written += "".join(choice["text"] for choice in chunk["choices"])
                fingerprint, seen = chunk["system_fingerprint"], seen + 1
                if seen == leave_after:
                    self._tally.count("left")
                    return
        self._check(name, text, written, fingerprint, began)

    def _leave(self) -> None:
        self._stream(leave_after=self._draw.randint(1, 4))

    def _check(self, name: str, text: str, written: str, fingerprint: str, began: float) -> None:
        digest = self._version(name, fingerprint, began)
        if digest is None:
            return
        expected, tied = self._shelf.truth.words(digest, text)
        if written == expected:
            self._tally.count("completed")
        elif tied:
            self._tally.count("tied")
        else:
            self._tally.fault(f"{name} {text!r}: {written!r}, and {expected!r} was right")

    def _wrong(self) -> None:
        body = self._draw.choice(WRONG_BODIES)
        with self._send("/v1/completions", body) as response:
            reply = response.read()
        self._tally.count("refused" if 400 <= response.status < 500 else str(response.status))
        if not 400 <= response.status < 500:
            self._tally.fault(f"wrong body {body[:60]!r}: {response.status} {reply[:200]!r}")


def soak(minutes: float, clients: int, tasks: int, progress: bool) -> dict[str, Any]:
    """Run the load and report."""
    base = FrozenBase.load("builtin/tiny", dtype="float32")
    draw = random.Random(0)
    words = "a film of great warmth about the sea and how old men come to know it but not what it wants".split()
    texts = [" ".join(draw.choices(words, k=draw.randint(2, 24))) for _ in range(12)]
    with tempfile.TemporaryDirectory() as home:
        library = Library.open(home)
        shelf = Shelf(library, Truth(base))
        for index in range(tasks):
            shelf.publish(f"{'label' if index % 2 else 'words'}-{index // 2}", seed=index)
        server, port = start(home)
        try:
            return _run(minutes, clients, shelf, texts, server, port, progress)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
            library.close()


def start(home: str) -> tuple[subprocess.Popen[str], int]:
    """A server on a free port. The caches are small, so that they are full, and evict, soon."""
    command = [
        sys.executable, "-m", "softprompt.cli", "--home", home, "serve", "--port", "0", "--dtype", "float32", "--json",
        "--prompt-cache-size", "16", "--prefix-cache-mb", "2",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise SystemExit("the server did not start; its message stands above")
    return server, int(json.loads(line)["url"].rpartition(":")[2].strip("/"))


def _run(
    minutes: float, clients: int, shelf: Shelf, texts: list[str], server: subprocess.Popen[str], port: int, progress: bool
) -> dict[str, Any]:
    tally = Tally()
    began = time.monotonic()
    ends = began + minutes * 60
    running = [Client(number, port, shelf, texts, tally, ends) for number in range(clients)]
    for client in running:
        client.start()
    process = psutil.Process(server.pid)
    resident: list[float] = []
    draw = random.Random(1)
    tasks, seed = list(shelf.targets), 1000
    while time.monotonic() < ends and server.poll() is None:
        time.sleep(min(2.0, max(0.0, ends - time.monotonic())))
        resident.append(process.memory_info().rss / 1e6)
        shelf.publish(draw.choice(tasks), seed := seed + 1)
        tally.count("published")
        if draw.random() < 0.5:
            shelf.drop()
            tally.count("deleted")
        if progress:
            sys.stderr.write(f"\r{(time.monotonic() - began) / 60:.1f} min, {resident[-1]:.0f} MB, {dict(tally.counts)}  ")
    for client in running:
        client.join(300)
    fifth = max(1, len(resident) // 5)
    early, late = statistics.median(resident[fifth : 2 * fifth] or resident), statistics.median(resident[-fifth:])
    counts = dict(sorted(tally.counts.items()))
    failed = sum(count for status, count in counts.items() if status.isdigit() and status.startswith("5"))
    return {
        "minutes": minutes,
        "clients": clients,
        "tasks": len(shelf.targets),
        **counts,
        "5xx": failed,
        "wrong": tally.counts["wrong"],
        "resident_early_mb": round(early, 1),
        "resident_late_mb": round(late, 1),
        "alive": server.poll() is None,
        "flat": late <= 1.05 * early,
        "faults": tally.faults,
    }


def main() -> None:
    """Soak, report, and exit 1 on any fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--tasks", type=int, default=24)
    parser.add_argument("--json", action="store_true", help="print JSON Lines only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    row = soak(args.minutes, args.clients, args.tasks, not args.json)
    if not args.json:
        sys.stderr.write("\n")
    print_row(row, args.json)
    sys.exit(0 if row["alive"] and row["flat"] and not row["wrong"] and not row["5xx"] else 1)


if __name__ == "__main__":
    main()
