"""What passes through the front as it is, and what it does where a replica is lost."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, InternalServerError

from softprompt.deploy.scaling import Bounds
from tests.deploy.replicas import STREAM, Here, Scripted, chunk, framed, fronted, says_who

ASKED = {"model": "kind@3", "prompt": "x"}


def ask(http: httpx2.AsyncClient, model: str = "kind", path: str = "/v1/completions") -> Any:
    return http.post(path, json={**ASKED, "model": model})


def dies(times: int, before: bytes = b"") -> Any:
    """Replicas of which the first so many die of a request, after they have sent `before`."""

    async def answer(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if replica.number > times:
            says_who(replica, head, body, writer)
            return
        writer.write(before)
        await writer.drain()
        await asyncio.sleep(0.05)
        replica.die()

    return answer


def test_a_task_keeps_to_its_replica_and_others_are_spread() -> None:
    async def main() -> None:
        async with fronted(Here(), Bounds(least=3, most=3)) as it:
            for task in range(12):
                found = {(await ask(it.http, f"t{task}@{version}")).json()["replica"] for version in range(4)}
                assert len(found) == 1
            assert all(replica.asked for replica in it.launcher.made)
            found = {(await it.http.get("/v1/models")).json()["replica"] for _ in range(30)}
            assert found == {1, 2, 3}, "what names no task goes everywhere"

    asyncio.run(main())


def test_a_busy_replica_is_passed_by() -> None:
    async def main() -> None:
        going = asyncio.Event()

        async def waits(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
            await going.wait()
            says_who(replica, head, body, writer)

        async with fronted(Here(waits), Bounds(least=2, most=2, target=3)) as it:
            asked = [asyncio.create_task(ask(it.http)) for _ in range(6)]
            while sum(len(replica.asked) for replica in it.launcher.made) < 6:
                await asyncio.sleep(0.01)
            assert [len(replica.asked) for replica in it.launcher.made] == [3, 3]
            assert "softprompt_front_running 6.0" in (await it.http.get("/metrics")).text
            going.set()
            await asyncio.gather(*asked)

    asyncio.run(main())


def test_bodies_paths_and_headers_pass_as_they_are() -> None:
    async def main() -> None:
        def answer(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(
                b"HTTP/1.1 418 I'm a teapot\r\ndate: never\r\nX-One: 1\r\nx-one: 2\r\nconnection: keep-alive\r\n"
                b"retry-after: 7\r\ncontent-length: 3\r\n\r\n\xff\x00!"
            )

        async with fronted(Here(answer)) as it:
            headers = {b"Authorization": b"Bearer \xe9", b"X-Forwarded-For": b"9.9.9.9"}
            reply = await it.http.post("/v1/classify?a=%20b&a=%2F", content=b'{"model":  "k"}', headers=headers)
            assert (reply.status_code, reply.content) == (418, b"\xff\x00!")
            told = [(name.lower(), value) for name, value in reply.headers.raw if name.lower() != b"date"]
            assert told == [(b"x-one", b"1"), (b"x-one", b"2"), (b"retry-after", b"7"), (b"content-length", b"3")]
            assert len(reply.headers.get_list("date")) == 1
            ((head, body),) = [asked for replica in it.launcher.made for asked in replica.asked]
            lines = head.lower().split(b"\r\n")
            assert head.startswith(b"POST /v1/classify?a=%20b&a=%2F HTTP/1.1\r\n")
            assert body == b'{"model":  "k"}'
            assert b"authorization: bearer \xe9" in lines
            assert lines.count(b"x-forwarded-for: 9.9.9.9") == 1
            assert f"host: {it.url.removeprefix('http://')}".encode() in lines

            await it.http.get("/v1/models")
            ((head, _),) = [asked for replica in it.launcher.made for asked in replica.asked if asked[1] == b""]
            assert b"x-forwarded-for: 127.0.0.1" in head, "or a caller elsewhere would seem to be on this machine"

    asyncio.run(main())


@pytest.mark.parametrize("before", [b"", framed(b"{}")[:-1]])
def test_what_a_lost_replica_had_not_answered_goes_to_another(before: bytes) -> None:
    async def main() -> None:
        async with fronted(Here(dies(1, before)), Bounds(least=2, most=2)) as it:
            for task in range(20):
                assert (await ask(it.http, f"t{task}")).json() == {
                    "replica": 2 if it.fleet.lost == 0 else pytest.approx(2.5, abs=1)
                }
                if it.launcher.made[0].asked:
                    break
            assert len(it.launcher.made[0].asked) == 1
            assert it.launcher.made[1].asked[-1] == it.launcher.made[0].asked[0], "the same bytes"
            assert "softprompt_front_repeated_total 1.0" in (await it.http.get("/metrics")).text
            while len(it.fleet.ready) < 2:
                await asyncio.sleep(0.01)
            assert len(it.alive) == 2
            assert it.fleet.lost == 1

    asyncio.run(main())


def test_a_lone_replica_is_waited_for() -> None:
    async def main() -> None:
        async with fronted(Here(dies(1)), Bounds(least=1, most=1)) as it:
            assert (await ask(it.http)).json() == {"replica": 2}

    asyncio.run(main())


def test_a_request_that_ends_all_replicas_is_given_up() -> None:
    async def main() -> None:
        async with fronted(Here(dies(99)), Bounds(least=2, most=2)) as it:
            reply = await ask(it.http)
            assert reply.status_code == 503
            assert reply.json()["error"]["code"] == "replica_lost"
            assert reply.headers["retry-after"] == "1"
            assert "x-should-retry" not in reply.headers
            assert sum(len(replica.asked) for replica in it.launcher.made) == 3

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/fine_tuning/jobs"), ("DELETE", "/v1/files/1"), ("POST", "/v1/feedback")]
)
def test_what_may_have_been_done_is_not_done_again(method: str, path: str) -> None:
    async def main() -> None:
        async with fronted(Here(dies(99)), Bounds(least=2, most=2)) as it:
            reply = await it.http.request(method, path, content=b'{"model": "kind"}' if method == "POST" else None)
            assert reply.status_code == 503
            assert "perhaps it was done" in reply.json()["error"]["message"]
            assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("1", "false")
            assert sum(len(replica.asked) for replica in it.launcher.made) == 1

    asyncio.run(main())


def test_openais_client_makes_no_second_job_by_itself() -> None:
    """It sends a request that met a 503 again, unless it is told not to."""

    async def main() -> None:
        async with fronted(Here(dies(99)), Bounds(least=2, most=2)) as it:
            async with AsyncOpenAI(base_url=f"{it.url}/v1", api_key="none", max_retries=2) as client:
                with pytest.raises(InternalServerError) as refused:
                    await client.fine_tuning.jobs.create(model="kind", training_file="file-1")
            assert refused.value.code == "replica_lost"
            assert sum(len(replica.asked) for replica in it.launcher.made) == 1

    asyncio.run(main())


def test_what_reached_no_replica_is_sent_to_another_whatever_it_is() -> None:
    async def main() -> None:
        async with fronted(Here(), Bounds(least=2, most=2)) as it:
            it.launcher.made[0].server.close()  # nothing listens, and nobody has noticed
            for _ in range(6):
                assert (await it.http.post("/v1/files", content=b"abc")).json() == {"replica": 2}
            assert all(body == b"abc" for _, body in it.launcher.made[1].asked)

    asyncio.run(main())


def test_a_stream_passes_as_it_comes_and_ends_with_an_error_when_its_replica_is_lost() -> None:
    async def main() -> None:
        more = asyncio.Event()

        async def answer(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM + chunk(b"data: 1\n\n") + chunk(b"data: 2\n\ndata: half"))
            await more.wait()
            replica.die()

        async with fronted(Here(answer), Bounds(least=1, most=1)) as it:
            async with it.http.stream("POST", "/v1/completions", json=ASKED) as reply:
                lines = reply.aiter_lines()
                assert [await anext(lines) for _ in range(4)] == ["data: 1", "", "data: 2", ""], "before the stream ends"
                more.set()
                rest = [line async for line in lines]
            assert rest[1:] == [""]
            assert json.loads(rest[0].removeprefix("data: "))["error"]["code"] == "replica_lost"
            assert "softprompt_front_broken_total 1.0" in (await it.http.get("/metrics")).text

    asyncio.run(main())


def test_a_stream_that_ends_well_ends_as_it_does() -> None:
    async def main() -> None:
        async def answer(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
            for part in (STREAM, chunk(b"data: a"), chunk(b"\n"), chunk(b"\ndata: [DO"), chunk(b"NE]\n\n: end"), chunk(b"")):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)

        async with fronted(Here(answer), Bounds(least=1, most=1)) as it:
            reply = await ask(it.http)
            assert reply.content == b"data: a\n\ndata: [DONE]\n\n: end"
            assert "content-length" not in reply.headers

    asyncio.run(main())


def test_a_client_that_goes_frees_its_replica() -> None:
    async def main() -> None:
        async def never(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(60)

        async with fronted(Here(never), Bounds(least=1, most=1)) as it:
            asked = asyncio.create_task(ask(it.http))
            while it.fleet.requests < 1:
                await asyncio.sleep(0.01)
            asked.cancel()
            while it.fleet.requests:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_long_bodies_pass_and_are_refused_by_the_replica_itself() -> None:
    async def main() -> None:
        async with fronted(Here(), body_bytes=100) as it:
            body = json.dumps({**ASKED, "prompt": "x" * 5000}).encode()
            assert (await it.http.post("/v1/completions", content=body)).status_code == 200
            ((_, passed),) = [asked for replica in it.launcher.made for asked in replica.asked]
            assert passed == body

    asyncio.run(main())


def test_large_answers_pass_without_being_kept() -> None:
    async def main() -> None:
        content = bytes(range(256)) * (1 << 17)

        def answer(replica: Scripted, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(framed(content))

        async with fronted(Here(answer)) as it:
            assert (await it.http.get("/v1/files/1/content")).content == content

    asyncio.run(main())


def test_the_front_tells_of_itself() -> None:
    async def main() -> None:
        async with fronted(Here(), Bounds(least=1, most=1), wait_s=0.1) as it:
            assert (await it.http.get("/healthz")).json() == {"status": "ok"}
            ready = (await it.http.get("/readyz")).json()
            assert (ready["status"], ready["base"], len(ready["replicas"])) == ("ready", "base", 1)
            away = await it.http.get("/readyz", headers={"x-forwarded-for": "9.9.9.9"})
            assert away.json() == {"status": "ready", "base": "base", "fingerprint": "f" * 32}
            it.launcher.hold.clear()
            it.launcher.made[0].die()
            while it.fleet.ready:
                await asyncio.sleep(0.01)
            assert (await it.http.get("/readyz")).status_code == 503
            assert (await it.http.get("/healthz")).status_code == 200
            reply = await ask(it.http)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_error")
            assert "retry-after" in reply.headers
            assert not [replica for replica in it.launcher.made if replica.asked]
            it.front.draining = True
            assert (await ask(it.http)).json()["error"]["code"] == "stopping"
            it.launcher.hold.set()

    asyncio.run(main())


def test_too_many_that_wait_are_refused() -> None:
    async def main() -> None:
        async with fronted(Here(), Bounds(least=1, most=1), most_waiting=2) as it:
            it.launcher.hold.clear()
            it.launcher.made[0].die()
            while it.fleet.ready:
                await asyncio.sleep(0.01)
            waiting = [asyncio.create_task(ask(it.http)) for _ in range(2)]
            while it.fleet.waiting < 2:
                await asyncio.sleep(0.01)
            reply = await ask(it.http)
            assert (reply.status_code, reply.json()["error"]["code"]) == (429, "engine_busy")
            it.launcher.hold.set()
            assert {reply.json()["replica"] for reply in await asyncio.gather(*waiting)} == {2}

    asyncio.run(main())
