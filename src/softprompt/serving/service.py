"""The asynchronous service: names and texts in, jobs of an engine out. What HTTP calls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from softprompt.engines.protocol import Embedding, EmbedJob, Engine, GenerateJob, Piece, Sampling
from softprompt.errors import DataError, EngineError, FieldError
from softprompt.names import AUTO
from softprompt.serving.answers import Classified, Completion, Embedded, Message, ModelRow
from softprompt.serving.catalogue import base_row, find_model, list_models
from softprompt.serving.decisions.answers import Decided
from softprompt.serving.decisions.decide import answer_by_labels, answer_zero_shot, is_answered
from softprompt.serving.decisions.wording import transcript
from softprompt.serving.inputs import chat_input, chat_text, check_room, check_text, fill_template, held_to
from softprompt.serving.labelling import Labelling, check_classifies
from softprompt.serving.monitor import Kind, Monitor, Watch, Whole
from softprompt.serving.reader import Reader
from softprompt.serving.residents.residents import Residents
from softprompt.serving.results import Results
from softprompt.serving.routing.auto import AutoRouter
from softprompt.serving.routing.router import THRESHOLD
from softprompt.serving.shadow import Shadow
from softprompt.serving.stream import Stream
from softprompt.serving.targets import Target, Targets

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.library.library import Library
    from softprompt.library.passages import Passages
    from softprompt.tasks.answers.decision import Question


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
        self._labelling = Labelling(base, self._reader, self._results)
        auto = AutoRouter(self.residents, self._results.of, at_once=engine.max_waiting, threshold=threshold, fresh_s=fresh_s)
        self.targets, self.shadow = Targets(base, self.residents, auto), Shadow(library.registry)
        self.monitor.watch(engine.status, self.residents.status, base)
        self._aside = Monitor()

    @property
    def _uncounted(self) -> AsyncService:
        """This service for questions that no client asked, a candidate's in the shadow: no counter, observer or tracer hears
        of them."""
        other = copy(self)
        other.monitor = self._aside
        return other

    async def models(self, tenant: str) -> list[ModelRow]:
        """The base, and a tenant's tasks that have versions on it, by name."""
        library = self.residents.tenant_library(tenant)
        rows = await asyncio.to_thread(list_models, library, self.base, self.targets.hidden.names)
        return [base_row(self.base), *rows]

    async def model(self, tenant: str, name: str) -> ModelRow:
        """One model, by any name that requests may use but `auto`."""
        if name in self.targets.hidden.names:
            await self.targets.hidden.refuse(tenant, name)
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
        schema: str | None = None,
        any_text: bool = False,
        echo: bool = False,
        repeat: bool = False,
        whole: Whole | None = None,
        user: str | None = None,
        key: str | None = None,
    ) -> Completion:
        """Continue raw text or token ids, without a template. Text is text: control tokens come as ids alone. With `schema`,
        a JSON schema as text, the answer is JSON of it; else of the task's own, where it has one and `any_text` does not say
        otherwise. With `echo` the input comes before it, with its tokens' log-probabilities where `sampling` asks for such,
        and `max_tokens` may be 0. A `repeat` is one more answer to what is asked beside it, whose tokens count once; where
        nothing is drawn it says the same, which drift and the shadow hear once. `whole` is a request of several answers."""
        how: dict[str, Any] = {"schema": schema, "any_text": any_text, "echo": echo, "user": user, "key": key}
        return await (await self.stream(tenant, model, given, sampling, repeat=repeat, whole=whole, **how)).whole()

    async def stream(
        self,
        tenant: str,
        model: str,
        given: str | Sequence[int],
        sampling: Sampling,
        *,
        schema: str | None = None,
        any_text: bool = False,
        echo: bool = False,
        repeat: bool = False,
        whole: Whole | None = None,
        user: str | None = None,
        key: str | None = None,
    ) -> Stream:
        """The same piece by piece. What can be refused is refused here, before the first piece."""
        async with self._watched(tenant, "completion", whole, repeat=repeat) as watch:
            ids = await self._reader.raw_ids(given)
            target = await self.targets.choose(tenant, model, [ids], watch, user, key)
            check_room(self.base, len(target.vectors), len(ids), sampling.max_tokens)
            target.refuse_ensemble()
            own = target.resident.form if target.resident is not None and schema is None and not any_text else None
            held = await held_to(self.base, sampling, own, schema)
            opening = await self._results.echo(self.base, target.vectors, given, ids, sampling.logprobs) if echo else None
            stream = self._generate(target, ids, held, watch)
            stream.echo = opening
            ask = partial(self._uncounted.complete, tenant, given=given, sampling=sampling, schema=schema, any_text=any_text)
            drawn = sampling.temperature > 0
            return self._follow(target, stream, watch, lambda ref: ask(model=ref), drawn=drawn, repeat=repeat)

    async def chat(
        self,
        tenant: str,
        model: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        own_bound: bool = False,
        schema: str | None = None,
        repeat: bool = False,
        whole: Whole | None = None,
        user: str | None = None,
        key: str | None = None,
    ) -> Completion:
        """Answer a conversation: its last message through the task's template, or for the base all of it through its
        tokenizer's chat template.

        A task with labels answers with the likeliest. With `own_bound` a task that generates keeps to its own bound, and
        `sampling.max_tokens` counts for the base alone, as far as there is room. With `schema`, a JSON schema as text, the
        answer is JSON of that; else of the task's own, where it has one. For `repeat` and `whole` see `complete`.
        """
        how: dict[str, Any] = {"own_bound": own_bound, "schema": schema, "user": user, "key": key}
        return await (await self.stream_chat(tenant, model, messages, sampling, repeat=repeat, whole=whole, **how)).whole()

    async def stream_chat(
        self,
        tenant: str,
        model: str,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        own_bound: bool = False,
        schema: str | None = None,
        repeat: bool = False,
        whole: Whole | None = None,
        user: str | None = None,
        key: str | None = None,
    ) -> Stream:
        """The same piece by piece."""

        def again(ref: str) -> Coroutine[Any, Any, Completion]:
            return self._uncounted.chat(tenant, ref, messages, sampling, own_bound=own_bound, schema=schema)

        async with self._watched(tenant, "chat", whole, repeat=repeat) as watch:
            raw = await self._reader.raw_inputs([chat_input(messages)]) if model == AUTO else []
            target = await self.targets.choose(tenant, model, raw, watch, user, key)
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
                        raise FieldError(
                            f"task {resident.task!r} answers with one of its labels, which has no logprobs of tokens; "
                            "/v1/classify gives the probability of each label",
                            "logprobs",
                        )
                    if schema is not None:
                        raise FieldError(
                            f"response_format: task {resident.task!r} answers with one of its labels, and never with JSON; "
                            "leave it out",
                            "response_format",
                        )
                    head = self.targets.head(target, len(ids))
                    stream = await self._labelling.best(resident, target.members, ids, head, watch)
                    return self._follow(target, stream, watch, again, drawn=False, repeat=repeat)
            bound = sampling.max_tokens if resident is None or not own_bound else resident.form.max_new_tokens
            room = self.base.room(len(target.vectors) + len(ids))
            if own_bound and room is not None:
                bound = max(1, min(bound, room))
            check_room(self.base, len(target.vectors), len(ids), bound)
            own = None if resident is None else resident.form
            held = await held_to(self.base, replace(sampling, max_tokens=bound), own, schema)
            stream = self._generate(target, ids, held, watch, strip=resident is not None)
            return self._follow(target, stream, watch, again, drawn=sampling.temperature > 0, repeat=repeat)

    async def classify(
        self,
        tenant: str,
        model: str,
        inputs: Sequence[str],
        *,
        sets: bool = False,
        user: str | None = None,
        key: str | None = None,
    ) -> Classified:
        """The likeliest label of each input, through the task's template; inputs too long are cut and counted. With `sets`
        the task's answers must be sets of labels."""
        async with self._watched(tenant, "classify") as watch:
            if not inputs:
                raise DataError("there is no input; give one text or more")
            raw = await self._reader.raw_inputs(inputs) if model == AUTO else []
            target = await self.targets.choose(tenant, model, raw, watch, user, key)
            resident = check_classifies(target.resident, model, sets=sets)
            rows, _, tokens = await self._labelling.rows(resident, inputs, watch)
            watch.done()
            self._follow_labels(tenant, target, inputs, [row.label for row in rows])
            return Classified(self.targets.head(target, tokens), tuple(rows), resident.form.problem_type)

    async def embed(
        self,
        tenant: str,
        model: str,
        inputs: Sequence[str | Sequence[int]],
        *,
        user: str | None = None,
        key: str | None = None,
    ) -> Embedded:
        """The mean of the base's last hidden states over the tokens of each input, which is raw text or token ids, behind a
        task's soft prompt, or by the base's own name behind none."""
        async with self._watched(tenant, "embeddings") as watch:
            if model == AUTO:
                raise FieldError(
                    "embeddings are of the model that is named; name a task, or the base, instead of 'auto'", "model"
                )
            ids = [await self._reader.raw_ids(given) for given in inputs]
            target = await self.targets.choose(tenant, model, [], watch, user, key)
            target.refuse_ensemble()
            results = await self._results.of([EmbedJob(own, target.vectors) for own in ids])
            rows = [result.values for result in results if isinstance(result, Embedding)]
            if not all(math.isfinite(value) for row in rows for value in row):
                raise EngineError("the base gave no numbers for an input; its prompt may be damaged")
            watch.accepted(tokens := sum(map(len, ids)))
            watch.done()
            return Embedded(self.targets.head(target, tokens), tuple(rows))

    async def decide(
        self,
        tenant: str,
        model: str,
        messages: Sequence[Message],
        questions: Sequence[Question],
        *,
        user: str | None = None,
        key: str | None = None,
    ) -> Decided:
        """Answers to questions about one input, a text or a conversation: a task's to the one that it was tuned for, the
        others refused; the base's to any."""
        async with self._watched(tenant, "decide") as watch:
            state = transcript(messages)
            check_text(state, "the input")
            raw = await self._reader.raw_inputs([chat_input(messages)]) if model == AUTO else []
            target = await self.targets.choose(tenant, model, raw, watch, user, key)
            resident, truncated = target.resident, False
            if resident is None:
                answers, tokens = await answer_zero_shot(self.base, self._reader, self._results, state, questions)
                watch.accepted(tokens)
            elif not any(is_answered(resident, one) for one in questions):
                answers, tokens = [answer_by_labels(resident, one) for one in questions], 0
            else:
                roles = resident.form.converses
                given = chat_input(messages, conversation=resident.reads_conversations, roles=roles)
                (row,), (scores,), tokens = await self._labelling.rows(resident, [given], watch)
                self._follow_labels(tenant, target, [given], [row.label])
                answers, truncated = [answer_by_labels(resident, one, scores) for one in questions], row.truncated
            watch.done()
            return Decided(self.targets.head(target, tokens), tuple(answers), truncated)

    def close(self) -> None:
        """Stop the threads. The engine and the library are the caller's."""
        self.monitor.close()
        self.residents.close()

    @asynccontextmanager
    async def _watched(
        self, tenant: str, kind: Kind, whole: Whole | None = None, *, repeat: bool = False
    ) -> AsyncIterator[Watch]:
        watch = self.monitor.begin(tenant, kind, whole, repeat=repeat)
        try:
            yield watch
        except BaseException as error:
            watch.failed(error)
            raise

    def _follow(
        self,
        target: Target,
        stream: Stream,
        watch: Watch,
        again: Callable[[str], Coroutine[Any, Any, Completion]],
        *,
        drawn: bool,
        repeat: bool,
    ) -> Stream:
        """A stream whose answer is compared with a candidate's in the shadow; not where both are `drawn`. Where nothing is,
        a `repeat` says what the answer beside it says, and that counts once."""
        share = target.share
        if repeat and not drawn:
            watch.repeats()
            return stream
        if share is None or drawn:
            return stream

        async def text() -> Sequence[str]:
            return [(await again(share.candidate)).text]

        return self.shadow.follow_stream(share, stream, text)

    def _follow_labels(self, tenant: str, target: Target, inputs: Sequence[str], labels: Sequence[str]) -> None:
        """The same for labels of inputs."""
        if (share := target.share) is not None:

            async def again() -> Sequence[str]:
                return [row.label for row in (await self._uncounted.classify(tenant, share.candidate, inputs)).rows]

            self.shadow.follow(share, labels, again)

    def _generate(
        self, target: Target, ids: Sequence[int], sampling: Sampling, watch: Watch, *, strip: bool = False
    ) -> Stream:
        target.refuse_ensemble()
        stream = Stream(self.targets.head(target, len(ids)), watch, strip=strip)
        if not sampling.max_tokens:
            watch.accepted(len(ids), ids)
            stream.deliver(Piece("", finish="length"))
            return stream
        ticket = self.engine.submit(GenerateJob(target.vectors, tuple(ids), sampling), stream.deliver)
        watch.accepted(len(ids), ids)
        return stream.runs(ticket)
