"""How many replicas there are: replaced, more or fewer, exchanged for those on another base."""

from __future__ import annotations

import asyncio

import pytest

from softprompt.deploy import fleet
from softprompt.deploy.scaling import Bounds
from softprompt.errors import EngineError
from tests.deploy.replicas import Here, Scripted, framed, fronted, says_who


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "LOOK_S", 0.02)
    monkeypatch.setattr(fleet, "AGAIN_S", (0.01,))


async def until(condition: object) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


def test_one_that_cannot_be_started_ends_those_that_could() -> None:
    class Second(Here):
        async def start(self, source: str) -> Scripted:
            if self.made:
                await until(lambda: hasattr(self.made[0], "serving"))
                await asyncio.sleep(0.05)
                raise EngineError("no room")
            return await super().start(source)

    async def main() -> None:
        launcher = Second()
        with pytest.raises(EngineError, match="no room"):
            async with fronted(launcher):
                pass
        assert [replica.gone.is_set() for replica in launcher.made] == [True]

    asyncio.run(main())


def test_a_lost_replica_is_started_again_until_it_can_be() -> None:
    async def main() -> None:
        async with fronted(Here(), Bounds(least=2, most=2)) as it:
            it.launcher.refuse = "no room just now"
            it.launcher.made[1].die()
            await until(lambda: len(it.fleet.ready) == 1)
            await asyncio.sleep(0.1)
            it.launcher.refuse = None
            await until(lambda: len(it.fleet.ready) == 2)
            await asyncio.sleep(0.1)
            assert len(it.alive) == 2, "one, not one for each try"
            assert it.fleet.lost == 1
        assert not it.alive

    asyncio.run(main())


def test_more_under_load_and_fewer_after_it_without_a_request_lost() -> None:
    async def main() -> None:
        async def slowly(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.1)
            says_who(replica, head, body, writer)

        async with fronted(Here(slowly), Bounds(least=1, most=3, target=2, idle_s=0.5)) as it:
            over = False

            async def client() -> set[int]:
                found = set()
                while not over:
                    reply = await it.http.post("/v1/completions", json={"model": "kind"})
                    assert reply.status_code == 200
                    found.add(reply.json()["replica"])
                return found

            clients = [asyncio.create_task(client()) for _ in range(12)]
            await until(lambda: len(it.fleet.ready) == 3)
            await asyncio.sleep(0.5)
            over = True
            assert set().union(*await asyncio.gather(*clients)) == {1, 2, 3}
            assert len(it.launcher.made) == 3, "never more than the most"
            await until(lambda: len(it.alive) == 1)
            assert [member.name for member in it.fleet.members] == ["r1"], "the youngest go first"

    asyncio.run(main())


def test_others_take_over_when_all_are_ready_and_the_old_finish_what_they_do() -> None:
    async def main() -> None:
        going = asyncio.Event()

        async def answer(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
            if b"slow" in body:
                await going.wait()
            writer.write(framed(replica.source.encode()))

        async with fronted(Here(answer), Bounds(least=2, most=2)) as it:

            async def ask(model: str) -> str:
                return (await it.http.post("/v1/completions", json={"model": model})).text

            slow = asyncio.create_task(ask("slow"))
            await until(lambda: it.fleet.requests == 1)
            it.launcher.hold.clear()
            change = asyncio.create_task(it.fleet.exchange("new"))
            await asyncio.sleep(0.1)
            assert await ask("kind") == "base"
            it.launcher.hold.set()
            await change
            assert await ask("kind") == "new"
            await until(lambda: len(it.alive) == 3)
            assert (await it.http.get("/readyz")).json()["base"] == "new"
            going.set()
            assert await slow == "base"
            await until(lambda: len(it.alive) == 2)
            assert it.fleet.lost == 0
            it.alive[0].die()
            await until(lambda: it.fleet.lost == 1 and len(it.fleet.ready) == 2)
            assert {replica.source for replica in it.alive} == {"new"}, "a lost one is replaced by one on the new base"

            it.launcher.refuse = "no such base"
            with pytest.raises(EngineError, match="no such base"):
                await it.fleet.exchange("third")
            assert await ask("kind") == "new"
            assert len(it.alive) == 2

    asyncio.run(main())


def test_one_whose_engine_ended_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "ASK_S", 0.05)

    async def main() -> None:
        async with fronted(Here(), Bounds(least=2, most=2)) as it:
            await asyncio.sleep(0.4)
            assert it.fleet.lost == 0
            it.launcher.made[0].ready = framed(b'{"status":"the engine has ended"}', "503 Service Unavailable")
            await until(lambda: it.fleet.lost == 1 and len(it.fleet.ready) == 2)
            it.launcher.made[1].ready = b""  # hangs
            await until(lambda: it.fleet.lost == 2 and len(it.fleet.ready) == 2)
            assert it.launcher.made[0].gone.is_set()
            assert it.launcher.made[1].gone.is_set()

    asyncio.run(main())
