"""Recorded passes, with the pass itself in the place of the recording: padding and choice are those of a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from softprompt.model.graphs import COLUMNS, HELD, KEPT, OFTEN, ROWS, Graphs, Pass, Record
from softprompt.model.kinds.causal import Causal
from softprompt.model.recompute import RECOMPUTES
from softprompt.model.splice import Spliced, stack_prompts
from softprompt.training.objectives import LANGUAGE_MODELING
from softprompt.training.steps.forward import Example, budget_on, losses_and_gradient, sharing_pays
from tests.models import make_base


def with_graphs(name: str, record: Record) -> tuple[Causal, list[tuple[int, ...]]]:
    """A base that plays what `record` makes, and the shapes of what was played."""
    causal, shapes = Causal(make_base(name)), list[tuple[int, ...]]()

    def noted(run: Pass, given: tuple[Tensor, ...]) -> Pass:
        made = record(run, given)

        def played(*arguments: Tensor) -> Tensor:
            shapes.append(tuple(arguments[0].shape[:2]))
            return made(*arguments)

        return played

    causal.graphs = Graphs(causal.base, lambda e, m, p, k: causal._logits(e, Spliced(m, p), k), noted)
    return causal, shapes


def step_of(causal: Causal, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A step of two prompts of 3 and 5 vectors, rows of 2 to 9 tokens, concatenated."""
    generator = torch.Generator().manual_seed(seed)
    stack = stack_prompts([torch.randn(length, causal.base.width, generator=generator) * 0.1 for length in (3, 5)])
    rows = [(row % 2, torch.randint(5, 60, (2 + row,), generator=generator).tolist()) for row in range(7)]
    examples = [Example(which, ids, LANGUAGE_MODELING, ids[: 1 + which], 0.25) for which, ids in rows]
    return losses_and_gradient(causal, stack, examples, shared=False)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_played_step_equals_one_that_is_run(name: str) -> None:
    causal, shapes = with_graphs(name, lambda run, _: run)
    plain = step_of(Causal(make_base(name)))
    first, again, third = (step_of(causal) for _ in range(3))
    assert torch.equal(first[0], plain[0])  # a shape that was not met before is run as it is
    assert shapes
    assert all(rows % ROWS == 0 and columns % COLUMNS == 0 for rows, columns in shapes)
    for losses_K, gradient_KPD in (again, third):
        torch.testing.assert_close(losses_K, plain[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient_KPD, plain[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma2", "mistral"])
def test_rows_longer_than_the_attention_window_are_not_played(name: str) -> None:
    causal, shapes = with_graphs(name, lambda run, _: run)
    assert all(torch.equal(step_of(causal)[1], step_of(Causal(make_base(name)))[1]) for _ in range(2))
    assert not shapes


def test_one_recording_serves_all_rows_of_its_padded_shape() -> None:
    made = []
    causal, shapes = with_graphs("llama", lambda run, given: made.append(given[0].shape) or run)  # type: ignore[func-returns-value]
    for seed in range(4):
        step_of(causal, seed)
    assert len(made) == len(set(shapes)) < len(shapes)
    assert causal.graphs is not None
    assert causal.graphs.recorded == len(made)


def pass_of(causal: Causal, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A pass of so many rows and columns, all of them real, whose last place is kept."""
    embeds = torch.randn(rows, columns, causal.base.width, generator=torch.Generator().manual_seed(columns)) * 0.1
    places = torch.arange(columns).expand(rows, columns)
    return embeds.requires_grad_(), torch.ones(rows, columns, dtype=torch.bool), places, places[:, -1:]


def test_a_larger_recording_plays_smaller_passes_until_they_have_come_often() -> None:
    causal, shapes = with_graphs("llama", lambda run, _: run)
    graphs = causal.graphs
    assert graphs is not None
    large, small = pass_of(causal, ROWS, 3 * COLUMNS), pass_of(causal, ROWS - 1, 2 * COLUMNS - 3)
    assert graphs.run(*large) is None
    assert graphs.run(*large) is not None
    plain = causal._logits(small[0], Spliced(small[1], small[2]), small[3])
    (wanted,) = torch.autograd.grad(plain.logsumexp(-1).sum(), small[0])
    for _ in range(OFTEN - 1):
        played = graphs.run(*small)
        assert played is not None
        assert shapes[-1] == (ROWS, 3 * COLUMNS)
        (gradient,) = torch.autograd.grad(played.logsumexp(-1).sum(), small[0])
        torch.testing.assert_close(played, plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)
    assert graphs.recorded == 1
    graphs.run(*small)
    assert shapes[-1] == (ROWS, 2 * COLUMNS)
    assert graphs.recorded == 2


def test_a_shape_that_is_new_does_not_push_out_the_recording_that_plays_it() -> None:
    causal, shapes = with_graphs("llama", lambda run, _: run)
    graphs = causal.graphs
    assert graphs is not None
    for _ in range(2):
        graphs.run(*pass_of(causal, ROWS, 3 * COLUMNS))
    for count in range(1, HELD):  # until the recording is what was used longest ago, and there is room for nothing more
        graphs.run(*pass_of(causal, (count + 1) * ROWS, COLUMNS))
    assert len(graphs._graphs) == HELD
    assert graphs.run(*pass_of(causal, ROWS, 2 * COLUMNS)) is not None
    assert shapes[-1] == (ROWS, 3 * COLUMNS)


@pytest.mark.parametrize(("rows", "columns"), [(ROWS, COLUMNS), (2 * ROWS, 3 * COLUMNS), (ROWS, 4 * COLUMNS)])
def test_a_recording_plays_no_pass_that_is_far_smaller_or_does_not_fit(rows: int, columns: int) -> None:
    causal, _ = with_graphs("llama", lambda run, _: run)
    graphs = causal.graphs
    assert graphs is not None
    for _ in range(2):
        graphs.run(*pass_of(causal, ROWS, 3 * COLUMNS))
    assert graphs.recorded == 1
    assert graphs.run(*pass_of(causal, rows, columns)) is None


@pytest.mark.parametrize("wrong", ["raises", "logits", "gradient"])
def test_what_cannot_be_recorded_or_comes_out_otherwise_is_run_as_it_is(wrong: str) -> None:
    def record(run: Pass, given: tuple[Tensor, ...]) -> Pass:
        if wrong == "raises":
            raise RuntimeError("capturing is not permitted")
        if wrong == "logits":
            return lambda *given: run(*given) * 1.1
        return lambda embeds, *given: run(embeds + 0.5 * (embeds - embeds.detach()), *given)

    causal, _ = with_graphs("llama", record)
    results = [step_of(causal) for _ in range(3)]
    assert causal.graphs is not None
    assert not causal.graphs.works
    plain = step_of(Causal(make_base("llama")))
    for losses_K, gradient_KPD in results:
        assert torch.equal(losses_K, plain[0])
        assert torch.equal(gradient_KPD, plain[1])


def test_graphs_that_were_not_used_for_long_are_given_up() -> None:
    causal, _ = with_graphs("llama", lambda run, _: run)
    graphs = causal.graphs
    assert graphs is not None
    for count in (*range(1, HELD + 2), 1):
        columns = count * COLUMNS
        embeds = torch.zeros(1, columns, causal.base.width, requires_grad=True)
        places = torch.arange(columns)[None]
        given = (embeds, torch.ones(1, columns, dtype=torch.bool), places, places[:, -1:])
        assert graphs.run(*given) is None  # among them the first one, which is met anew
    assert len(graphs._graphs) == HELD


def test_large_passes_and_recomputed_layers_are_not_played() -> None:
    causal, _ = with_graphs("llama", lambda run, _: run)
    graphs, base = causal.graphs, causal.base
    assert graphs is not None
    assert graphs.takes(8, 32, KEPT)
    assert not graphs.takes(10**13 // base.params, 32, KEPT)
    assert not graphs.takes(8, 32, 10**9)
    token = RECOMPUTES.set(True)
    assert not graphs.takes(8, 32, KEPT)
    RECOMPUTES.reset(token)
    assert graphs.takes(8, 32, KEPT)


def test_a_pass_with_a_hook_that_is_trained_is_not_played() -> None:
    causal, shapes = with_graphs("llama", lambda run, _: run)
    added = torch.zeros(causal.base.width, requires_grad=True)
    hook = causal.base.model.base_model.layers[0].register_forward_hook(lambda _, __, states: states + added)
    for _ in range(3):
        added.grad = None
        step_of(causal)
        assert added.grad is not None
    hook.remove()
    assert not shapes


def test_a_pass_whose_weights_are_trained_is_not_played() -> None:
    causal, shapes = with_graphs("llama", lambda run, _: run)
    weights = list(causal.base.model.parameters())
    weights[-1].requires_grad_()
    for _ in range(3):
        weights[-1].grad = None
        step_of(causal)
        assert weights[-1].grad is not None
    assert not shapes
    weights[-1].requires_grad_(False)
    step_of(causal)
    step_of(causal)
    assert shapes


def examples_of(rows: int, tokens: int) -> list[Example]:
    return [Example(row % 2, [7] * tokens, LANGUAGE_MODELING, [3], 1.0) for row in range(rows)]


@pytest.mark.parametrize(("device", "params", "rows", "pays"), [
    ("cpu", 10**8, 8, True),  # no pass of a CPU's waits to be launched
    ("cuda", 10**8, 8, False),  # 8 rows of 20 virtual tokens are soon run
    ("cuda", 10**8, 8 * 10**4, True),
    ("cuda", 10**12, 8, True),
])  # fmt: skip
def test_a_gpu_shares_prompts_where_that_saves_more_than_a_launch(device: str, params: int, rows: int, pays: bool) -> None:
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=10))
    model = SimpleNamespace(config=config)
    base: Any = SimpleNamespace(device=torch.device(device), width=4, params=params, model=model)
    stack = stack_prompts([torch.zeros(20, 4)] * 2)
    examples = examples_of(rows, 5)
    assert sharing_pays(SimpleNamespace(shares_prefix=True, base=base), stack, examples) is pays  # type: ignore[arg-type]
    assert not sharing_pays(SimpleNamespace(shares_prefix=False, base=base), stack, examples)  # type: ignore[arg-type]
    prefixes = stack_prompts([torch.zeros(20, 64)] * 2)
    assert sharing_pays(SimpleNamespace(shares_prefix=True, base=base), prefixes, examples)  # type: ignore[arg-type]


def test_chunks_go_by_the_kind_of_device() -> None:
    assert budget_on(torch.device("cpu")) < budget_on(torch.device("cuda")) == budget_on(torch.device("cuda", 3))
