"""The arithmetic of the plan past one machine, against what is known and what is measured here."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from benchmarks import beyond
from benchmarks.beyond import SHAPES, Given, Shape
from benchmarks.train_vs_peft import needed_operations
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import stack_prompts
from tests.models import make_base, some_prompt

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
GIVEN = Given()


def tiny() -> Shape:
    """The shape of a base that is at hand."""
    config = make_base("llama").model.config
    return Shape(
        "tiny", config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads,
        config.num_key_value_heads, config.hidden_size // config.num_attention_heads, config.vocab_size, True,
    )  # fmt: skip


def test_shapes_have_the_weights_that_their_models_have() -> None:
    known = {"1B": 1_235_814_400, "8B": 8_030_261_248, "70B": 70_553_706_496}
    assert {shape.name: shape.params for shape in SHAPES} == known
    base = make_base("llama")
    assert tiny().params == sum({id(p): p.numel() for p in base.model.parameters()}.values())


def test_bytes_are_those_of_a_real_prompt() -> None:
    base, shape, given = make_base("llama", dtype=torch.bfloat16), tiny(), replace(GIVEN, virtual=7)
    with torch.no_grad():
        prefix = architecture_of(base).compute_prefix(stack_prompts([torch.zeros(7, base.width, dtype=torch.bfloat16)]))
    held = sum(part.numel() * part.element_size() for layer in prefix.layers for part in layer)
    found = beyond.memory(shape, given)
    assert (held, found["held_kb"]) == (7 * shape.kept, round(held / 1e3, 1))
    prompt = some_prompt(base, "one", rows=7)
    assert found["vectors_kb"] == round(prompt.vectors_PD.numel() * prompt.vectors_PD.element_size() / 1e3, 1)


def test_operations_are_those_that_the_benchmark_of_a_step_counts() -> None:
    """Which leaves attention's own out."""
    base, shape = make_base("llama"), tiny()
    rows = [([number + 5, *range(20, 29)], [7]) for number in range(32)]
    given = replace(GIVEN, virtual=6, rows=32, row_tokens=10)
    pairs = 32 * 10 * (6 + 10 / 2) + 6 * 6 / 2
    assert beyond.step_operations(shape, given) - 3 * shape.attention(pairs) == needed_operations(base, rows, 6, 1)


def test_bytes_on_the_wire_are_those_that_two_processes_send() -> None:
    """`tests/training/test_parallel.py` counts them: a gradient and a loss of each prompt."""
    shape = SHAPES[0]
    assert beyond.sent(shape, replace(GIVEN, bank=2, virtual=8)) == 4 * (2 * 8 * shape.width + 2)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_figures_move_as_they_must(shape: Shape) -> None:
    warm, none = beyond.request_seconds(shape, GIVEN, 20), beyond.request_seconds(shape, GIVEN, 0)
    cold = beyond.request_seconds(shape, GIVEN, 20, cold=True)
    assert none < warm < cold
    twice = beyond.serving(shape, replace(GIVEN, price=2.0))["per_million"]
    assert twice == pytest.approx(2 * beyond.serving(shape, GIVEN)["per_million"], rel=0.01)
    alone = [beyond.parallel(shape, GIVEN, processes)["efficiency"] for processes in (1, 2, 8, 32)]
    assert alone[0] == 1
    assert alone == sorted(alone, reverse=True)
    assert beyond.wire_seconds(shape, GIVEN, 1) == 0
    faster = replace(GIVEN, peak=2 * GIVEN.peak)
    assert beyond.train_seconds(shape, faster) == pytest.approx(beyond.train_seconds(shape, GIVEN) / 2)
    assert 2 * shape.params <= 0.8 * GIVEN.memory * beyond.devices(shape, GIVEN)
    assert beyond.devices(shape, GIVEN) == 1 or 2 * shape.params > 0.4 * GIVEN.memory * beyond.devices(shape, GIVEN)


def test_a_card_too_small_holds_no_prompt() -> None:
    small = replace(GIVEN, memory=SHAPES[0].weights / 0.8)
    assert beyond.memory(SHAPES[0], small)["prompts_that_fit"] == 0
    assert beyond.training(SHAPES[0], small)["largest_bank"] == 0


def test_every_figure_says_where_it_comes_from(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["beyond.py", "--json", "--price", "3", "--tokens-in", "1000"])
    beyond.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    given = {row["name"]: row for row in rows if row["section"] == "given"}
    assert set(given) == {one.name for one in fields(Given)}
    assert (given["price"]["value"], given["tokens_in"]["value"]) == (3, 1000)
    assert {row["source"] for row in given.values()} == {"assumed", "measured"}
    assert all(row["what"] for row in given.values())
    assert {row["source"] for row in rows if row["section"] != "given"} == {"derived"}
    assert {row["section"] for row in rows} == {"given", "serving", "memory", "training", "parallel"}


def test_a_number_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        beyond.read(["--price", "0"])
    assert "--price is 0.0; give a number above 0" in capsys.readouterr().err


def test_the_page_has_these_tables() -> None:
    page = (ROOT / "docs" / "beyond.md").read_text(encoding="utf-8")
    for part in beyond.markdown(GIVEN).split("### ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert "\n".join(lines) in page, f"docs/beyond.md is old: python benchmarks/beyond.py --markdown, {part.split()[0]}"
