"""The whole life of ten prompts of three tenants, on real parts that are killed at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.lock import WorkerLock
from softprompt.jobs.records import UNFINISHED
from softprompt.library import takeout
from softprompt.library.library import Library
from softprompt.registry.tables import ERASURES
from softprompt.serving.offline import Service
from softprompt.serving.routing.split import arm_of
from tests.services.served import Served, wait, worker_of
from tests.services.servers import free_port
from tests.story import truth
from tests.story.desk import Desk, Ledger, names_said
from tests.story.people import Answer, Person, Reaper, Traffic
from tests.story.rows import WRITES, drifted, recipe, rows_of, write_rows, write_task

pytestmark = pytest.mark.story

SEED = int(os.environ.get("SOFTPROMPT_STORY_SEED", "1"))
TENANTS = {
    "north": ("mood", "size", "heat", "speed", WRITES),
    "south": ("tone", "food", "age"),
    "west": ("light", "noise"),
}
TINY = "builtin/tiny"
TRAINING = ("load: 100%", "baselines", "train: 20%", "train: 60%", "train: 100%", "test: 100%")
"""Progress of a training, behind which it may be killed."""
SMOLLM2 = Path(__file__).parents[2] / "models" / "smollm2.gguf"


class Story:
    """What all chapters share."""

    def __init__(self, folder: Path, registry: str, store: str, stack: ExitStack) -> None:
        self.folder, self.registry, self.store = folder, registry, store
        self.place = ("--registry", registry, "--store", store)
        self.draw, self.began = random.Random(SEED), time.monotonic()
        self.ledger, self.desk = Ledger(), Desk(folder / "desk", self.place, self.draw, self.say)
        self.library = stack.enter_context(Library.open(folder / "judge", registry=registry, store=store))
        self.keys: dict[str, str] = {}
        self.stack, self.files = stack, folder / "files"
        self.reaper: Reaper
        self.traffic: Traffic
        self.base: FrozenBase

    def say(self, text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self.began:6.1f} s  {text}\n")
        sys.stdout.flush()

    def of(self, tenant: str) -> Library:
        return self.library.for_tenant(tenant)

    def person(self, tenant: str) -> Person:
        person = Person(self.reaper.server.url, tenant, self.keys[tenant])
        self.stack.callback(person.close)
        return person

    def means(self, tenant: str, task: str) -> int:
        return self.of(tenant).registry.resolve(task).number

    def serves(self, tenant: str, task: str, number: int) -> None:
        """The server answers for a name with this version, soon."""
        person, text = self.person(tenant), rows_of(task, 1, "serves")[0]["text"]
        path = "/v1/chat/completions" if task == WRITES else "/v1/classify"
        body: dict[str, Any] = {"model": task, "user": "somebody"}
        body |= {"messages": [{"role": "user", "content": text}]} if task == WRITES else {"input": text}
        wait(lambda: person.insist(path, body)["model"] == f"{task}@{number}")


@pytest.fixture
def story(postgres_database: Callable[[], str], s3_url: str, tmp_path: Path) -> Iterator[Story]:
    with ExitStack() as stack:
        stack.callback(end_worker, tmp_path / "server")
        yield Story(tmp_path, postgres_database(), s3_url, stack)


def end_worker(home: Path) -> None:
    """The worker outlives its server; nothing outlives the test."""
    while home.exists() and not WorkerLock(home).is_free():
        with contextlib.suppress(AssertionError, ProcessLookupError):  # it has gone, or somebody looks whether it has
            os.kill(worker_of(home), signal.SIGKILL)
        time.sleep(0.1)


def test_the_life_of_prompts(
    story: Story,
    postgres_database: Callable[[], str],
    redis_url: str,
    base_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chapters: list[tuple[str, Callable[[], None]]] = [
        ("three tenants get keys, and a server without a task", lambda: begin(story)),
        ("eight tasks are trained by the command, killed on the way", lambda: train(story)),
        ("two tasks are trained by jobs, whose worker is killed", lambda: train_by_jobs(story)),
        ("what is trained is promoted, and served", lambda: promote(story)),
        ("requests drift from what one task was tuned for", lambda: drift(story)),
        ("it is trained again", lambda: retrain(story)),
        ("a suite keeps a worse version out", lambda: gate(story)),
        ("two versions are compared on requests, and the better one is promoted", lambda: compare(story)),
        ("that is rolled back", lambda: roll_back(story)),
        ("wrong answers are corrected", lambda: correct(story)),
        ("a task goes to a second base", lambda: upgrade(story, base_folder)),
        ("a copy on another PostgreSQL and Redis answers alike", lambda: copy(story, postgres_database(), redis_url)),
        ("a tenant leaves", lambda: leave(story)),
        ("the reckoning", lambda: reckon(story)),
    ]
    with capsys.disabled():
        sys.stdout.write(f"\nseed {SEED}; another with SOFTPROMPT_STORY_SEED\n")
        for number, (title, chapter) in enumerate(chapters, 1):
            story.say(f"{number}. {title}")
            chapter()
            story.ledger.check(story.library)


def begin(story: Story) -> None:
    for tenant in TENANTS:
        made = story.desk.run(tenant, "keys", "create", "app", *("--scope=read", "--scope=predict", "--scope=train"))
        story.keys[tenant] = made[0]["secret"]
    story.base = FrozenBase.load(BaseOptions(source=TINY, dtype="float32", device="cpu"))
    port = free_port()

    def start() -> Served:
        return Served(story.folder / "server", TINY, *story.place, port=port, key=story.keys["west"])

    story.reaper = story.stack.enter_context(Reaper(start, random.Random(f"{SEED} reaper"), story.say))
    story.traffic = story.stack.enter_context(Traffic(story.reaper.server.url, story.keys, SEED))


def train(story: Story) -> None:
    for tenant in ("north", "south"):
        files = [write_task(story.files, task, **small(task)) for task in TENANTS[tenant]]
        rows = story.desk.killed(tenant, "train", *files, "--dtype", "float32", at=TRAINING, times=2)
        assert {row["task"] for row in rows} == set(TENANTS[tenant])
        for row in rows:
            story.ledger.published(story.of(tenant), f"{row['task']}@{row['version']}")
            assert story.ledger.versions[tenant, row["task"], row["version"]] == row["digest"]
        story.traffic.known[tenant] = TENANTS[tenant]


def small(task: str) -> dict[str, Any]:
    """The task that goes to the large base takes a few steps."""
    return {"max_steps": 4, "per_device_train_batch_size": 8} if task == "food" else {}


def train_by_jobs(story: Story) -> None:
    library = story.of("west")
    jobs, home, names = Jobs(library), story.folder / "server", {}
    with story.reaper.away() as server:
        for task in TENANTS["west"]:
            lines = write_rows(story.files / f"{task}-train.jsonl", rows_of(task, 64, "train")).read_bytes()
            file = server.client.files.create(file=(f"{task}.jsonl", lines), purpose="fine-tune")
            settings = {name: value for name, value in recipe(task).items() if name != "seed"} | {"max_steps": 40}
            job = server.client.fine_tuning.jobs.create(
                model=server.base, training_file=file.id, suffix=task, seed=1, extra_body={"softprompt": settings}
            )
            names[task] = job.id
    for _ in range(2):
        before = [jobs.get(name).step for name in names.values()]
        wait(lambda: [jobs.get(name).step for name in names.values()] != before)  # noqa: B023
        time.sleep(story.draw.uniform(0, 1.5))
        if {jobs.get(name).status for name in names.values()}.isdisjoint(UNFINISHED):
            break
        os.kill(worker_of(home), signal.SIGKILL)
        wait(WorkerLock(home).is_free)
        story.say("  kill -9 of the worker")
    wait(lambda: {jobs.get(name).status for name in names.values()}.isdisjoint(UNFINISHED))
    for task, name in names.items():
        job = jobs.get(name)
        assert (job.status, job.model) == ("succeeded", f"{task}@1"), job.error
        assert [version.number for version in library.registry.versions(task)] == [1]
        story.ledger.published(library, f"{task}@1")
    story.traffic.known["west"] = TENANTS["west"]


def promote(story: Story) -> None:
    for tenant, tasks in TENANTS.items():
        for task in tasks:
            (row,) = story.desk.run(tenant, "promote", f"{task}@1")
            assert (row["before"], row["after"]) == (None, 1)
            story.ledger.moved(tenant, "promote", task, 1)
        story.traffic.known[tenant] = (*tasks, *(f"{task}@1" for task in tasks), *(f"{task}@production" for task in tasks))
    before = {tenant: count(story, tenant) for tenant in TENANTS}
    wait(lambda: all(count(story, tenant) >= before[tenant] + 25 for tenant in TENANTS))


def count(story: Story, tenant: str) -> int:
    return sum(answer.tenant == tenant for answer in list(story.traffic.answers))


def drift(story: Story) -> None:
    person, texts = story.person("north"), drifted(192)
    with story.reaper.away():  # what a server saw in its last seconds goes with it
        for at in range(0, len(texts), 64):
            person.insist("/v1/classify", {"model": "heat", "input": texts[at : at + 64]})
        wait(lambda: any(row["drifted"] for row in story.desk.run("north", "drift", "heat@1")))
    alike = write_rows(story.files / "alike.jsonl", rows_of("speed", 150, "alike"))
    rows = story.desk.run("north", "drift", "speed", "--data", alike, "--dtype", "float32")
    assert rows
    assert not any(row["drifted"] for row in rows)


def retrain(story: Story) -> None:
    new = [{"text": text, "label": ("hot", "cold")[number % 2]} for number, text in enumerate(drifted(32))]
    data = write_rows(story.files / "new.jsonl", rows_of("heat", 64, "train") + new)
    (row,) = story.desk.killed("north", "retrain", "heat", "--data", data, "--dtype", "float32", at=TRAINING, times=1)
    assert row["train_rows"] == 96
    assert row["old_version"] == 1
    note_made(story, "north", row)


def note_made(story: Story, tenant: str, row: dict[str, Any]) -> None:
    """A command has made a version of an old one, and says whether it was promoted."""
    task, number = row["task"], row["new_version"]
    story.ledger.published(story.of(tenant), f"{task}@{number}")
    assert story.means(tenant, task) == (number if row["promoted"] else row["old_version"]), row
    if row["promoted"]:
        story.ledger.moved(tenant, "promote", task, number)
    story.say(f"  {task}@{number}: {row['old']} before, {row['value']} now, {'' if row['promoted'] else 'not '}promoted")


def gate(story: Story) -> None:
    suite = story.files / "behaves.yaml"
    suite.write_text('{"metrics": ["exact_match"], "must_not": ["invoice"], "perturb": ["case"], "tolerance": 0.05}')
    assert story.desk.run("north", "suite", "run", f"{WRITES}@1", "--suite", suite, "--dtype", "float32")
    story.ledger.outcomes.add(("north", f"{WRITES}@1", "behaves"))
    worse = story.files / f"{WRITES}.yaml"
    changes = ("--set", "max_steps=1", "--set", "prompt_tuning_init=RANDOM")
    (row,) = story.desk.killed("north", "train", worse, *changes, "--dtype", "float32", at=TRAINING, times=1)
    bad = f"{WRITES}@{row['version']}"
    story.ledger.published(story.of("north"), bad)
    assert "softprompt suite run" in story.desk.refused("north", "promote", bad)
    story.desk.killed("north", "suite", "run", bad, "--suite", suite, "--dtype", "float32", at=("load: 100%",))
    story.ledger.outcomes.add(("north", bad, "behaves"))
    said = story.desk.refused("north", "promote", bad)
    assert "exact_match" in said, said
    assert "40 rows" in said, said
    assert story.means("north", WRITES) == 1
    (row,) = story.desk.run("north", "promote", bad, "--force", "--reason", "to see it fail")
    story.ledger.moved("north", "promote", WRITES, row["after"])
    story.serves("north", WRITES, row["after"])
    (row,) = story.desk.run("north", "rollback", WRITES, "--reason", "it failed")
    story.ledger.moved("north", "rollback", WRITES, 1)
    story.serves("north", WRITES, 1)
    (row,) = (line for line in story.of("north").registry.audit(WRITES) if (line.after or {}).get("forced"))
    assert row.reason == "to see it fail"


def compare(story: Story) -> None:
    file = story.files / "size.yaml"
    (row,) = story.desk.killed("north", "train", file, "--set", "seed=2", "--dtype", "float32", at=TRAINING, times=1)
    assert story.means("north", "size") == 1
    candidate = row["version"]
    story.ledger.published(story.of("north"), f"size@{candidate}")
    story.traffic.known["north"] = ("size", *story.traffic.known["north"])
    story.desk.run("north", "ab", "start", "size", "--candidate", str(candidate), "--auto")
    person, library = story.person("north"), story.of("north")
    experiment = library.registry.experiments.latest("size")
    assert experiment is not None
    told, draw, text = set[str](), random.Random(f"{SEED} outcomes"), rows_of("size", 1, "ab")[0]["text"]
    for number in range(2000):
        if number in (7, 19):  # in the middle of it
            story.say("  kill -9 of the server, between outcomes")
            story.reaper.kill()
        user = f"judge-{number}"
        answer = person.insist("/v1/classify", {"model": "size", "input": text, "user": user})
        if f"-e{experiment.id}" not in answer["id"]:  # a server that has not heard of it yet, or it has ended
            if not told:
                continue
            there = library.registry.experiments.latest("size")
            assert there is not None
            assert there.state == "stopped", answer
            break
        assert answer["model"] == experiment.ref_of(arm_of(experiment, user)), "another server draws alike"
        good = draw.random() < (0.9 if answer["model"] == f"size@{candidate}" else 0.4)
        told.add(person.insist("/v1/feedback", {"id": answer["id"], "outcome": good})["id"])
    story.ledger.said["north", "size"] = told
    (control, other) = story.desk.run("north", "ab", "status", "size")
    assert (control["state"], control["decision"]) == ("stopped", "candidate"), control
    assert names_said(story.library, "north", "size") == told
    counted = control["outcomes"] + other["outcomes"]
    assert 0 <= len(told) - counted <= 10, "outcomes behind the decision do not count, and all others do once"
    assert story.means("north", "size") == candidate, control
    story.ledger.moved("north", "promote", "size", candidate)
    story.say(f"  {counted} outcomes decided for size@{candidate}")
    story.serves("north", "size", candidate)


def roll_back(story: Story) -> None:
    (row,) = story.desk.run("north", "rollback", "size", "--reason", "people liked the old one")
    assert row["after"] == 1
    story.ledger.moved("north", "rollback", "size", 1)
    story.serves("north", "size", 1)


def correct(story: Story) -> None:
    rows, person, names = rows_of("tone", 60, "wrong"), story.person("south"), set[str]()
    service = Service(story.of("south"), base=story.base)
    said = service.predict([row["text"] for row in rows], "tone")
    wrong = [row for row, one in zip(rows, said, strict=True) if one.output != row["label"]][:5]
    wrong = wrong or [{"text": one.text, "label": "kind" if one.output == "rude" else "rude"} for one in said[:5]]
    for number, row in enumerate(wrong):
        if number == 2:
            story.say("  kill -9 of the server, between corrections")
            story.reaper.kill()
        right = {"input": row["text"], "answer": row["label"]}
        names.add(person.insist("/v1/feedback", {"id": f"wrong-{number}", "model": "tone", "correct": right})["id"])
    story.ledger.said["south", "tone"] = names
    at = ("load: 100%", "train", "test")
    (row,) = story.desk.killed("south", "correct", "tone", "--dtype", "float32", at=at, times=1)
    assert row["corrections"] == len(wrong)
    assert row["fixed"] > row["fixed_before"]
    note_made(story, "south", row)


def upgrade(story: Story, folder: Path) -> None:
    other, dtype, near = (SMOLLM2, "bfloat16", 0.05) if SMOLLM2.exists() else (folder, "float32", truth.ROUNDING)
    story.say(f"  food goes from {TINY} to {other.name} in {dtype}")
    story.traffic.known["south"] = tuple(
        ref for ref in story.traffic.known["south"] if ref not in ("food", "food@production")
    )
    at = ("carry", "starts", *TRAINING)
    (row,) = story.desk.killed("south", "upgrade", "food", "--to", other, "--dtype", dtype, at=at, times=1)
    note_made(story, "south", row)
    new = f"food@{row['new_version']}"
    # Of the old base's server it is no answer, and all else is as it was.
    with story.reaper.away():
        refused = story.person("south").ask(new, rows_of("food", 1, "moved")[0]["text"], "ann")
    assert not isinstance(refused, Answer)
    assert refused.status_code in (400, 404, 409), refused.text
    story.say(f"  {refused.status_code}: {refused.json()['error']['message'][:100]}")
    server = Served(story.folder / "second", other, *story.place, dtype=dtype, key=story.keys["south"])
    try:
        person = Person(server.url, "south", story.keys["south"])
        answers = [person.ask(new, row["text"], "ann") for row in rows_of("food", 6, "moved")]
        person.close()
    finally:
        server.kill()
    base = FrozenBase.load(BaseOptions(source=str(other), dtype=dtype, device="cpu"))
    told = [answer for answer in answers if isinstance(answer, Answer)]
    assert len(told) == len(answers), answers
    truth.check(story.of("south"), told, base, near)


def copy(story: Story, registry: str, store: str) -> None:
    there = ("--to-home", story.folder / "copy", "--to-registry", registry, "--to-store", store)
    story.desk.killed(None, "library", "copy", *map(str, there), times=3)
    with Library.open(story.folder / "copy", registry=registry, store=store) as library:
        assert library.verify().problems == []
        story.ledger.check(library)
        for tenant in TENANTS:
            some = [answer for answer in list(story.traffic.answers) if answer.tenant == tenant][:10]
            truth.check(library.for_tenant(tenant), some, story.base)


def leave(story: Story) -> None:
    story.traffic.known["west"] = ()
    out, refs = story.folder / "out", [f"{task}@1" for task in TENANTS["west"]]

    def erased() -> bool:
        return [line.action for line in story.of("west").registry.audit()] == [*ERASURES]

    digests = [story.of("west").registry.resolve(ref).digest for ref in refs]
    time.sleep(1)  # the last answer to a client of the tenant
    story.desk.killed(
        None,
        "tenant",
        "export",
        "west",
        out,
        times=2,
        done=lambda: (out / "registry.db").exists() and not (out / takeout.UNFINISHED).exists(),
    )
    with Library.open(out, tenant="west", create=False) as out:
        theirs = [answer for answer in list(story.traffic.answers) if answer.tenant == "west"]
        checked = truth.check(out, theirs, story.base)
        assert out.verify().problems == []
    story.say(f"  {len(theirs)} answers to west, {checked} different ones, are what its export says")
    person = story.person("west")
    story.desk.killed(None, "tenant", "erase", "west", "--yes", times=3, done=erased)
    assert erased()
    story.ledger.forget("west")
    with story.reaper.away():
        wait(lambda: person.post("/v1/classify", {"model": "light", "input": "a"}).status_code == 401)
    assert not any(story.library.store.has(digest) for digest in digests)
    assert story.of("west").registry.tasks() == []


def reckon(story: Story) -> None:
    story.traffic.known |= dict.fromkeys(story.traffic.known, ())
    time.sleep(1)
    for tenant in ("north", "south"):
        theirs = [answer for answer in list(story.traffic.answers) if answer.tenant == tenant]
        checked = truth.check(story.of(tenant), theirs, story.base)
        story.say(f"  {len(theirs)} answers to {tenant}, {checked} different ones, are what their versions say")
    assert not story.traffic.errors, story.traffic.errors
    (row,) = story.desk.run(None, "library", "verify")
    assert row["problems"] == []
    ledger = story.ledger.counts()
    story.say(f"  there are {ledger}; {story.reaper.kills} kills of the server, {story.desk.kills} of commands")
    story.say(f"  nobody answered: {dict(story.traffic.away)}")
