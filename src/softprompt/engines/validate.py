"""Jobs as they come in: checked against the base before they are queued, with what they will take."""

from __future__ import annotations

from collections.abc import Sequence

from softprompt.bases.architectures import ENCODERS, KINDS
from softprompt.engines.batch import score_size, scores_in_lines
from softprompt.engines.protocol import Deliver, EmbedJob, Job, ReadJob, Sampling, ScoreJob
from softprompt.engines.scheduler import Work
from softprompt.errors import ConfigError, ContextError, EngineError
from softprompt.model.architecture import Architecture
from softprompt.text import plural


class Validator:
    """What a base can take. Its numbers are read once: a job is checked on its caller's time."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        base = architecture.base
        self.name = base.name
        self.context, self._room = base.context, base.room
        self.vocabulary, self.width = base.embedding.weight.shape
        self._layout = architecture.layout

    def plan(self, job: Job, deliver: Deliver) -> Work:
        """A job with what it takes: tokens of its first pass, columns of its row. Raises as :meth:`check`."""
        self.check(job)
        count = len(job.input)
        if isinstance(job, EmbedJob):
            return Work(job, deliver, len(job.prompt) + count)
        if isinstance(job, ReadJob):
            return Work(job, deliver, count)
        if isinstance(job, ScoreJob):
            length, rows = score_size(job, scores_in_lines(self._architecture, job))
            return Work(job, deliver, length * rows)
        columns = len(job.prompt) + count + job.sampling.max_tokens
        return Work(job, deliver, count, columns if self.context is None else min(columns, self.context))

    def check(self, job: Job) -> None:
        """Refuse what the base cannot take.

        Raises:
            ContextError: prompt and input (and one token, or the longest label) do not fit the context.
            EngineError: it is no job for this base.
            ConfigError: the base writes no text.
        """
        count = len(job.input)
        if not count:
            raise EngineError("the input has no tokens; an engine needs at least one")
        self._check_ids(job.input)
        prompt = self._prompt_length(job)
        if isinstance(job, EmbedJob):
            self._check_embedding(job)
            self._check_context(prompt, count, 0, "output")
            return
        if isinstance(job, ReadJob):
            if (kind := self._architecture.base.task_type) != "CAUSAL_LM":
                raise ConfigError(
                    f"{self.name} is {KINDS[kind]}, which says of no token of an input how likely it is; ask a causal base"
                )
            if job.top < 0:
                raise EngineError(f"top must be 0 or more; {job.top} was given")
            self._check_context(prompt, count, 0, "output")
            return
        if isinstance(job, ScoreJob):
            if not job.labels or not all(job.labels):
                raise EngineError("the job scores no labels, or one without tokens; give each at least one")
            head = self._architecture.head
            if head is None:
                for label in job.labels:
                    self._check_ids(label)
                self._check_context(prompt, count, max(map(len, job.labels)), "the longest label")
            elif prompt < (rows := head.on(job.prompt.width(self._architecture.base)).rows(len(job.labels))):
                raise EngineError(
                    f"prompt {job.prompt.digest[:12]} has {plural(prompt, 'row')}, and a head for "
                    f"{plural(len(job.labels), 'label')} on {self.name} takes {rows}; it is of another task or base"
                )
            else:
                self._check_context(prompt - rows, count, 0, "an answer")
            return
        if (kind := self._architecture.base.task_type) in ENCODERS:
            raise ConfigError(f"{self.name} is {KINDS[kind]}, which writes no text; ask for labels (/v1/classify)")
        _check_sampling(job.sampling)
        self._check_context(prompt, count, 1, "a first token of output")

    def _check_context(self, prompt: int, count: int, output: int, what: str) -> None:
        room = self._room(prompt + count)
        if room is not None and output > room:
            raise ContextError(
                f"{plural(prompt, 'virtual token')}, {plural(count, 'token')} of input and {output} of {what} do not "
                f"fit the context of {self.name} ({self.context} tokens); shorten the input"
            )

    def _check_ids(self, ids: Sequence[int]) -> None:
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            raise EngineError(f"token ids must lie between 0 and {self.vocabulary - 1}; {min(ids)} to {max(ids)} were given")

    def _check_embedding(self, job: EmbedJob) -> None:
        kind = self._architecture.base.task_type
        if job.prompt and kind != "CAUSAL_LM":
            raise ConfigError(
                f"{self.name} is {KINDS[kind]}, whose embeddings are without a prompt; name the base alone as the model"
            )
        if job.prompt and job.prompt.is_prefix(self._architecture.base):
            raise ConfigError(
                f"prompt {job.prompt.digest[:12]} is a prefix, and embeddings are behind soft prompts or none; name another "
                "task, or the base alone"
            )

    def _prompt_length(self, job: Job) -> int:
        if job.prompt.vectors_PD is None:
            return 0
        shape = job.prompt.vectors_PD.shape
        if len(shape) != 2 or shape[1] not in (self.width, self._layout and self._layout.width):
            found, layout = " x ".join(map(str, shape)), self._layout
            prefix = "no prefix" if layout is None else f"prefixes of {layout.width} numbers a token ({layout})"
            raise EngineError(
                f"prompt {job.prompt.digest[:12]} is {found}; {self.name} takes vectors of width {self.width}, and {prefix}"
            )
        return shape[0]


def _check_sampling(sampling: Sampling) -> None:
    if sampling.max_tokens < 1:
        raise EngineError(f"max_tokens must be at least 1; {sampling.max_tokens} was given")
    if not 0 <= sampling.temperature < float("inf"):
        raise EngineError(f"temperature must be 0 or more; {sampling.temperature} was given")
    if not 0 < sampling.top_p <= 1:
        raise EngineError(f"top_p must be above 0 and at most 1; {sampling.top_p} was given")
    if sampling.top_k < 0:
        raise EngineError(f"top_k must be 0 (all) or more; {sampling.top_k} was given")
    if sampling.logprobs is not None and sampling.logprobs < 0:
        raise EngineError(f"logprobs must be 0 or more; {sampling.logprobs} was given")
