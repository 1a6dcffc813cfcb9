"""The asynchronous service: names and texts in, jobs of an engine out. What HTTP calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from softprompt.engines.protocol import (
    NO_PROMPT,
    Engine,
    GenerateJob,
    Piece,
    Sampling,
    Vectors,
)
from softprompt.errors import ConfigError, DataError
from softprompt.names import AUTO
from softprompt.serving.answers import Classified, Completion, Head, Message, ModelRow, choose_label
from softprompt.serving.auto import AutoRouter
from softprompt.serving.catalogue import Hidden, base_row, find_model, list_models, system_fingerprint
from softprompt.serving.inputs import (
    chat_input,
    chat_text,
    check_room,
    check_text,
    encode_inputs,
    fill_template,
)
from softprompt.serving.monitor import Kind, Monitor, Watch
from softprompt.serving.personal import Personal
from softprompt.serving.reader import INLINE, Reader
from softprompt.serving.resident import Resident
from softprompt.serving.residents import Residents
from softprompt.serving.results import Results
from softprompt.serving.router import THRESHOLD, Route
from softprompt.serving.shadow import Shadow
from softprompt.serving.split import Share, Split
from softprompt.serving.stream import Stream

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.library.passages import Passages


@dataclass(frozen=True)
class _Target:
    """What a request's model means."""

    resident: Resident | None
    """None for the base alone."""
    routed: Route | None
    members: tuple[Vectors, ...] = (NO_PROMPT,)
    """Its prompt, or those of an ensemble, with what stands before them in the input at hand."""
    share: Share | None = None
    """Its part in an experiment."""

    @property
    def vectors(self) -> Vectors:
        """Of a prompt that is no ensemble."""
        return self.members[0]


class AsyncService:
    """Answers by name with the prompts of a library on one base, whoever the tenant. For use on one event loop.

    `model` is `task`, `task@3`, `task@production`, the base's own name for no prompt, or `auto`; a `user` who has a prompt
    of their own gets that for `task`, also where `auto` chose it. Whether the caller may ask for the user is the caller's to
    know. While an experiment runs, a task's bare name means one of two versions, by the user or, where none is named, by
    `key`; without either it means what it did. All methods raise the
    package's errors: `NotFound` and `NameRefused` (no such model), `FingerprintMismatch` (of another base), `DataError` and
    `ConfigError` (what is requested cannot be), `ContextError`, `EngineBusy`, `EngineError`, `RegistryError`, `StoreError`.
    A method that is cancelled gives up its jobs.
    """

    def __init__(
        self,
        library: Library,
        base: FrozenBase,
        engine: Engine,
        *,
        max_bytes: int = 1 << 28,
        max_prompts: int = 10_000,
        fresh_s: float = 1.0,
        threshold: float = THRESHOLD,
        passages: Passages | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        """Serve a library's prompts of one base.

        Args:
            library: any tenant's; the others are reached from it.
            base: what the engine runs.
            engine: where jobs go; the caller stops it.
            max_bytes: bound on the vectors held, over all tenants.
            max_prompts: bound on the prompts held.
            fresh_s: seconds after which the registry is asked again.
            threshold: nearness below which `auto` abstains; by default one that was measured.
            passages: what finds passages for inputs; by default the folders that prompts were tuned with.
            monitor: counts requests.
        """
        self.base, self.base_name, self.fingerprint = base, base.name, base.fingerprint
        self.engine, self.monitor = engine, monitor or Monitor()
        self.residents = Residents(
            library,
            base,
            max_bytes=max_bytes,
            max_prompts=max_prompts,
            fresh_s=fresh_s,
            swapped=self.monitor.swapped,
            passages=passages,
        )
        self._results, self._reader = Results(engine), Reader(base)
        self._auto = AutoRouter(
            self.residents, self._results.of, at_once=engine.max_waiting, threshold=threshold, fresh_s=fresh_s
        )
        self.personal, self.split = Personal(self.residents), Split(self.residents)
        self.shadow = Shadow(library.registry)
        self.hidden = Hidden(library, base.name, self.residents.changes)
        self.monitor.watch(engine.status, self.residents.status, base)

    async def models(self, tenant: str) -> list[ModelRow]:
        """The base, and a tenant's tasks that have versions on it, by name."""
        library = self.residents.tenant_library(tenant)
        rows = await asyncio.to_thread(list_models, library, self.base, self.hidden.names)
        return [base_row(self.base), *rows]

    async def model(self, tenant: str, name: str) -> ModelRow:
        """One model, by any name that requests may use but `auto`."""
        if name in self.hidden.names:
            await self.hidden.refuse(tenant, name)
        if name == self.base_name:
            return base_row(self.base)
        return await asyncio.to_thread(find_model, self.residents.tenant_library(tenant), self.base, name)

    async def complete(
        self,
        tenant: str,
        model: str,
        given: str | Sequence[int],
        sampling: Sampling,
        *,
        user: str | None = None,
        key: str | None = None,
    ) -> Completion:
        """Continue raw text or token ids, without a template. Text is text: control tokens come as ids alone."""
        return await (await self.stream(tenant, model, given, sampling, user=user, key=key)).whole()

    async def stream(
        self,
        tenant: str,
        model: str,
        given: str | Sequence[int],
        sampling: Sampling,
        *,
        user: str | None = None,
        key: str | None = None,
    ) -> Stream:
        """The same piece by piece. What can be refused is refused here, before the first piece."""
        async with self._watched(tenant, "completion") as watch:
            ids = await self._reader.raw_ids(given)
            target = await self._choose(tenant, model, [ids], watch, user, key)
            check_room(self.base, len(target.vectors), len(ids), sampling.max_tokens)
            stream = self._generate(target, ids, sampling, watch)
            return self._follow(target, stream, sampling, lambda ref: self.complete(tenant, ref, given, sampling))

    async def chat(
        self,
        tenant: str,
        model: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        own_bound: bool = False,
        user: str | None = None,
        key: str | None = None,
    ) -> Completion:
        """Answer a conversation: its last message through the task's template, or for the base all of it through its
        tokenizer's chat template.

        A task with labels answers with the likeliest. With `own_bound` a task that generates keeps to its own bound, and
        `sampling.max_tokens` counts for the base alone, as far as there is room.
        """
        opening = self.stream_chat(tenant, model, messages, sampling, own_bound=own_bound, user=user, key=key)
        return await (await opening).whole()

    async def stream_chat(
        self,
        tenant: str,
        model: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        own_bound: bool = False,
        user: str | None = None,
        key: str | None = None,
    ) -> Stream:
        """The same piece by piece."""

        def again(ref: str) -> Coroutine[Any, Any, Completion]:
            return self.chat(tenant, ref, messages, sampling, own_bound=own_bound)

        async with self._watched(tenant, "chat") as watch:
            raw = await self._reader.raw_inputs([chat_input(messages)]) if model == AUTO else []
            target = await self._choose(tenant, model, raw, watch, user, key)
            resident = target.resident
            if resident is None:
                check_text("\n".join(message.content for message in messages), "the conversation")
                ids = await self._reader.ids_of(chat_text(self.base, messages))
            else:
                form = resident.form
                given = chat_input(messages, conversation=resident.reads_conversations, roles=form.converses)
                check_text(given, "the conversation")
                watch.text = given
                fill = partial(fill_template, self.base, form, given)
                front, text = await asyncio.to_thread(fill) if resident.looks_up else fill()
                ids = await self._reader.ids_of(text)
                if resident.form.front_varies:
                    target = replace(target, members=resident.behind(self.base, await self._reader.ids_of(front)))
                if resident.labels is not None:
                    if sampling.logprobs is not None:
                        raise ConfigError(
                            f"task {resident.task!r} answers with one of its labels, which has no logprobs of tokens; "
                            "/v1/classify gives the probability of each label"
                        )
                    stream = await self._best_label(target, resident, ids, watch)
                    return self._follow(target, stream, sampling, again)
            bound = sampling.max_tokens if resident is None or not own_bound else resident.form.max_new_tokens
            room = self.base.room(len(target.vectors) + len(ids))
            if own_bound and room is not None:
                bound = max(1, min(bound, room))
            check_room(self.base, len(target.vectors), len(ids), bound)
            stream = self._generate(target, ids, replace(sampling, max_tokens=bound), watch, strip=resident is not None)
            return self._follow(target, stream, sampling, again)

    async def classify(
        self, tenant: str, model: str, inputs: Sequence[str], *, user: str | None = None, key: str | None = None
    ) -> Classified:
        """The likeliest label of each input, through the task's template; inputs too long are cut and counted."""
        async with self._watched(tenant, "classify") as watch:
            if not inputs:
                raise DataError("there is no input; give one text or more")
            raw = await self._reader.raw_inputs(inputs) if model == AUTO else []
            target = await self._choose(tenant, model, raw, watch, user, key)
            resident = target.resident
            if resident is None:
                raise ConfigError(f"{model!r} is the base, which has no labels; name a task with labels as `model`")
            if resident.labels is None and not resident.form.is_number:
                raise ConfigError(
                    f"task {resident.task!r} generates text and has no labels; ask /v1/completions or "
                    "/v1/chat/completions, or name a task with labels"
                )
            size = INLINE if resident.looks_up else INLINE // 8 * len(inputs)
            encoded = await self._reader.off_loop(inputs, size, lambda: encode_inputs(self.base, resident, inputs))
            tokens = sum(len(one.ids) for one in encoded)
            behind = [resident.behind(self.base, one.front) for one in encoded]
            if resident.labels is None:
                rows = await self._results.numbers(resident, [members[0] for members in behind], encoded)
            else:
                scores = await self._results.scores(resident, behind, [one.ids for one in encoded])
                said = zip(scores, encoded, strict=True)
                rows = [choose_label(resident.form, own, truncated=one.truncated) for own, one in said]
            watch.accepted(tokens)
            watch.chose(inputs, [(*one.front, *one.ids) for one in encoded], [row.said for row in rows])
            watch.done()
            if (share := target.share) is not None:

                async def again_labels() -> Sequence[str]:
                    return [row.label for row in (await self.classify(tenant, share.candidate, inputs)).rows]

                self.shadow.follow(share, [row.label for row in rows], again_labels)
            return Classified(self._head(target, tokens), tuple(rows), resident.form.problem_type)

    def close(self) -> None:
        """Stop the threads. The engine and the library are the caller's."""
        self.monitor.close()
        self.residents.close()

    @asynccontextmanager
    async def _watched(self, tenant: str, kind: Kind) -> AsyncIterator[Watch]:
        watch = self.monitor.begin(tenant, kind)
        try:
            yield watch
        except BaseException as error:
            watch.failed(error)
            raise

    async def _choose(
        self, tenant: str, model: str, raw: Sequence[Sequence[int]], watch: Watch, user: str | None, key: str | None
    ) -> _Target:
        """What `model` means to a user; for `auto`, by the raw inputs."""
        routed = None
        if model in self.hidden.names:
            await self.hidden.refuse(tenant, model)
        if model == self.base_name:
            watch.found(None)
            return _Target(None, None)
        if model == AUTO:
            routed = await self._auto.choose(tenant, raw)
            model = routed.task
        own = await self.personal.find(tenant, model, user) if user is not None else None
        share = await self.split.find(tenant, model, key if user is None else user) if own is None else None
        resident = own or await self.residents.aget(model if share is None else share.ref, tenant)
        watch.found(resident.task, resident)
        return _Target(resident, routed, resident.members, share)

    def _follow(
        self, target: _Target, stream: Stream, sampling: Sampling, again: Callable[[str], Coroutine[Any, Any, Completion]]
    ) -> Stream:
        """A stream whose answer is compared with a candidate's in the shadow; not where both are drawn."""
        share = target.share
        if share is None or sampling.temperature > 0:
            return stream

        async def text() -> Sequence[str]:
            return [(await again(share.candidate)).text]

        return self.shadow.follow_stream(share, stream, text)

    def _head(self, target: _Target, input_tokens: int) -> Head:
        resident = target.resident
        return Head(
            model=self.base_name if resident is None else resident.ref,
            task=None if resident is None else resident.task,
            version=None if resident is None else resident.version,
            system_fingerprint=system_fingerprint(self.fingerprint, "" if resident is None else resident.digest),
            virtual_tokens=0 if resident is None else resident.virtual_tokens,
            input_tokens=input_tokens,
            routed=target.routed,
            share=target.share,
        )

    def _generate(
        self, target: _Target, ids: Sequence[int], sampling: Sampling, watch: Watch, *, strip: bool = False
    ) -> Stream:
        if target.resident is not None and target.resident.lengths:
            raise ConfigError(
                f"{target.resident.ref} is an ensemble of {len(target.resident.lengths)} prompts, which chooses a label and "
                "continues no text; ask /v1/classify or /v1/chat/completions"
            )
        stream = Stream(self._head(target, len(ids)), watch, strip=strip)
        ticket = self.engine.submit(GenerateJob(target.vectors, tuple(ids), sampling), stream.deliver)
        watch.accepted(len(ids), ids)
        return stream.runs(ticket)

    async def _best_label(self, target: _Target, resident: Resident, ids: tuple[int, ...], watch: Watch) -> Stream:
        """The likeliest label as an answer of one piece."""
        assert resident.labels is not None
        check_room(self.base, max(map(len, target.members)), len(ids), max(map(len, resident.labels)))
        (scores,) = await self._results.scores(resident, [target.members], [ids])
        watch.accepted(len(ids))
        said = choose_label(resident.form, scores, truncated=False).said
        watch.chose([watch.text], [ids], [said])
        stream = Stream(self._head(target, len(ids)), watch)
        asked = dict(zip(resident.form.asked, resident.labels, strict=True))
        tokens = len(asked.get(said.label, max(resident.labels, key=len)))
        stream.deliver(Piece(said.output, finish="stop", count=tokens))
        return stream
