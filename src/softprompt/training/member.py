"""The member of a session: a task on its way to a published prompt, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from softprompt.evaluation.baselines import baselines_of, suffice
from softprompt.evaluation.findings import remarks_on_scores, start_kept
from softprompt.evaluation.trials import Report
from softprompt.prompts.card import BASELINE_ROWS, BASELINES, VALUE_THERE, value_beside
from softprompt.rows.sources import digest_rows
from softprompt.tasks.answers.kinds import OF_NUMBERS, OF_SETS
from softprompt.tasks.task import Examples, Task
from softprompt.text import plural
from softprompt.training.objectives.preference import PREFERRED
from softprompt.training.objectives.unlikelihood import RATE
from softprompt.training.steps.bank import Banks
from softprompt.training.steps.run import Begins, Run

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from softprompt.library.library import Library
    from softprompt.prompts.prompt import SoftPrompt
    from softprompt.registry.gate import Rival
    from softprompt.registry.records import Version

OF_OBJECTIVES = (
    *("agreement", "agreement_decided", "decided", "teacher"),
    *(RATE, *(f"{name}_{RATE}" for name in ("zero_shot", "untrained"))),
    *PREFERRED,
)
"""What objectives say of a prompt beside its metric, by their names among a card's metrics."""


@dataclass(frozen=True)
class Tuned:
    """A tuned prompt, with its scores on the test split."""

    prompt: SoftPrompt
    report: Report
    version: int | None
    """Its number in the library; None when it was not published."""
    seconds: float
    """Wall-clock time from the start of the session, whose prompts share it, until this one was published."""
    truncated: int
    """Inputs that were cut to fit the context, over all splits."""
    answers_cut: int
    """Answers that were cut to `max_new_tokens`, over all splits."""
    frozen: int
    """Weights of the base."""
    rows: tuple[int, int, int]
    """Of training, validation and test; none of validation where those of training were held out in turn."""
    history: list[dict[str, float]]
    """A row for each validation: step, learning rate, training loss, value, validation loss."""
    live: Rival | None = None
    """What the task's bare name meant before this one was published."""
    production: Rival | None = None
    """What its `production` alias points to."""

    @classmethod
    def of(
        cls,
        member: Member,
        prompt: SoftPrompt,
        report: Report,
        version: Version | None,
        beside: tuple[Rival | None, Rival | None],
        frozen: int,
        seconds: float,
    ) -> Tuned:
        """What came of a member; `beside` are the versions that were live and in production."""
        run, number = member.run, version.number if version is not None else None
        own = 0 if run.folds else len(run.validation)  # each row counts in one split
        rows, cut = (len(run.train), own, len(member.test)), (member.truncated, member.answers_cut)
        return cls(prompt, report, number, seconds, *cut, frozen, rows, run.history, *beside)

    @property
    def warnings(self) -> list[str]:
        """What its scores give reason to say, its own and beside what was there before."""
        card = self.prompt.card
        found = remarks_on_scores(card.metric, card.metrics, keeps_start=card.keeps_start)
        if (kept := start_kept(card, self.history)) is not None:
            found.append(kept)
        if self.report.unfinished:
            found.append(
                f"{self.report.unfinished} of {self.report.rows} answers ran into max_new_tokens ({card.max_new_tokens}) "
                "before their end; raise it, or train longer"
            )
        if self.report.unparsable:
            found.append(
                f"{self.report.unparsable} of {self.report.rows} answers are no numbers, and count as that end of the range "
                "which is farther from the right one"
            )
        if self.report.outside:
            found.append(
                f"{self.report.outside} of {self.report.rows} answers lie outside of the range, and count as its nearer end"
            )
        if card.recipe.get("unwanted_matched") == 0:
            found.append(
                f"none of the {card.recipe['unwanted_asked']} answers that it wrote in training matched `unwanted_patterns`"
                ", so they changed nothing; sample more (unwanted_every, unwanted_rows), or mend the patterns"
            )
        if self.live is not None and (self.live.worse or self.live.same_rows is False):
            words = f"{self.live.comparison} (version {self.live.version}, which was live)"
            if self.production is None:
                words += (
                    f"; {card.task!r} alone means this one now, until `softprompt promote {card.task}@{self.live.version}`"
                )
            found.append(words)
        return found

    def __repr__(self) -> str:
        number = "" if self.version is None else f"@{self.version}"
        score = f"{self.report.metric} {self.report.value:.4g} on {plural(self.report.rows, 'row')}"
        return f"Tuned({self.prompt.card.task}{number}, {score}, digest {self.prompt.digest[:12]})"

    @property
    def moved(self) -> float | None:
        """Distance from the start relative to the start's length (L2); None for what was combined of several."""
        return self.prompt.card.metrics.get("moved")

    def row(self) -> dict[str, Any]:
        """One flat row, as the command prints it."""
        card = self.prompt.card
        trainable = sum(part.numel() for part in (self.prompt.vectors_PD, *(self.prompt.classifier or ())))
        train, validation, test = self.rows
        return {
            "task": card.task,
            "version": self.version,
            "digest": self.prompt.digest,
            "metric": card.metric,
            **{name: card.metrics.get(name) for name in ("value", "stderr", "rows")},
            **{name: card.metrics.get(name) for one in (*BASELINES, "validation") for name in (one, f"{one}_stderr")},
            BASELINE_ROWS: card.metrics.get(BASELINE_ROWS, card.metrics.get("rows")),
            VALUE_THERE: value_beside(card.metrics),
            **{name: value for name, value in card.metrics.items() if name.removesuffix("_stderr") in OF_OBJECTIVES},
            "learnt": card.learnt,
            "steps": card.recipe.get("steps"),
            "best_step": card.recipe.get("best_step"),
            "seconds": round(self.seconds, 2),
            "prompt_bytes": len(self.prompt.to_bytes()),
            "trainable": trainable,
            "frozen": self.frozen,
            "total": self.frozen + trainable,
            "truncated": self.truncated,
            "answers_cut": self.answers_cut,
            "unfinished": self.report.unfinished,
            **(
                {"unparsable": self.report.unparsable, "out_of_range": self.report.outside}
                if card.metric in OF_NUMBERS
                else {}
            ),
            **self.report.others,
            **({"threshold": card.recipe["threshold"]} if card.metric in OF_SETS else {}),
            "train_rows": train,
            "validation_rows": validation,
            "test_rows": test,
            "folds": card.recipe.get("folds", 0),
            "moved": self.moved,
            "live": self.live and vars(self.live),
            "production": self.production and vars(self.production),
            "warnings": self.warnings,
        }


Also = Callable[["Connection", "Version", "Member", "SoftPrompt"], object]
"""What is to be done in the transaction that publishes a member's prompt; where it raises, nothing is published."""


@dataclass(eq=False)
class Member:
    """One task of a session, on its way from rows to a published prompt."""

    task: Task
    library: Library | None
    """Where its prompt is published; without one nothing is kept."""
    publishes: bool = True
    """Whether it is judged and published by itself when its run ends."""
    also: Also | None = None
    salt: str = ""
    """Tells it apart from equal tasks in a checkpoint."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """What joins the recipe in its prompt's card."""
    begins: Begins | None = None
    """Where it starts, if not as its task says."""
    keeps_start: bool = False
    """Whether it ends where it starts if no step is better, whatever the start is of."""
    run: Run = field(init=False, repr=False)
    """Known once it is prepared, as are the two below."""
    test: Examples = field(init=False, repr=False)
    places: range = field(init=False, default=range(0))
    """Of its runs in the bank."""
    key: str = field(init=False, default="")
    """Names its run in a checkpoint: equal for equal tasks, recipes, rows and bases."""
    id: str = field(init=False, default="")
    """Names its run for good, in the checkpoint and in the registry: so it is published once."""
    baselines: dict[str, float] | None = field(init=False, default=None, repr=False)
    resumed: bool = field(init=False, default=False)
    """Whether it goes on from a checkpoint."""
    prepared: bool = field(init=False, default=False)
    ended: bool = field(init=False, default=False)
    """Whether it takes no more steps, for whatever reason."""
    paused: bool = field(init=False, default=False)
    """Whether it is to go on another time, from what the checkpoint keeps of it."""
    tuned: Tuned | None = field(init=False, default=None, repr=False)
    """What came of it."""
    error: Exception | None = field(init=False, default=None)
    """Why nothing did."""

    def state(self, bank: Banks) -> dict[str, Any]:
        """What a checkpoint keeps of it and of its places in the bank."""
        runs = [run.state() | {"bank": bank.state(place)} for run, place in zip(self.runs, self.places, strict=True)]
        return {"id": self.id, "baselines": self.baselines, "judged": digest_rows(self.task.test), "runs": runs}

    def load_state(self, state: Mapping[str, Any], bank: Banks) -> None:
        """Go on from a state. Baselines of other test rows than today's are measured anew."""
        self.id, self.resumed, baselines = state["id"], True, state["baselines"]
        same = state.get("judged") == digest_rows(self.task.test)
        self.baselines = baselines if baselines and same and suffice(baselines, self.task) else None
        for run, place, own in zip(self.runs, self.places, state["runs"], strict=True):
            run.load_state(own)
            bank.load_state(place, own["bank"])

    def took_baselines(self, reports: Sequence[Report]) -> None:
        """Keep the scores of the zero-shot text and of the prompt before training, and what its objective says of both."""
        self.baselines = baselines_of(self.task, self.test, reports, self.run.train)
        for name, report in zip(("zero_shot", "untrained"), reports, strict=True):
            there = self.test.pick(self.task.draw(self.task.test, report.rows))
            beside = self.run.objective.baseline_scores(self.task, there, report)
            self.baselines |= {f"{name}_{one}": value for one, value in beside.items()}

    @property
    def runs(self) -> tuple[Run, ...]:
        """Its run, and the folds that judge it where there are any."""
        return (self.run, *self.run.folds)

    @property
    def truncated(self) -> int:
        """Inputs that were cut to fit the context, over all splits."""
        return sum(split.truncated for split in self._splits)

    @property
    def answers_cut(self) -> int:
        """Answers that were cut to `max_new_tokens`, over all splits."""
        return sum(split.answers_cut for split in self._splits)

    @property
    def _splits(self) -> tuple[Examples, ...]:
        validation = () if self.run.folds else (self.run.validation,)  # which are its training rows
        return (self.run.train, *validation, self.test)
