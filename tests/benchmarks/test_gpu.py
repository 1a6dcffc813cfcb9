"""The script for an accelerator, tried without one; and that what it compares can be found wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.agreement import ALWAYS, TIMES, Outcome, Referee, greedy_gap, judged, outcome_of
from tests.models import make_base

pytestmark = pytest.mark.slow

Row = dict[str, Any]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return outcome_of(make_base("llama"))


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status, and what is printed."""
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--quick", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        gpu.main()
    return int(str(end.value.code)), capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the Trainer
def test_every_section_has_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text('{"of":"before"}\n')
    code, printed = run_main(monkeypatch, capsys, "--json", "--out", str(out))
    rows = [json.loads(line) for line in printed.splitlines()]
    assert not [row for row in rows if "failed" in row or "skipped" in row]
    assert code == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [{"of": "before"}, *rows]
    assert list(dict.fromkeys(row["section"] for row in rows)) == list(gpu.COLUMNS)
    done = [row for row in rows if "unavailable" not in row]
    assert all(row["seconds"] >= 0 for row in rows)
    assert [(row["dtype"], row["ok"]) for row in done if row["section"] == "correctness"] == [
        ("fp32", True),
        ("bf16", True),
        ("fp16", True),
    ]
    trained = [row for row in done if row["section"] == "training"]
    assert [(row["P"], row["K"]) for row in trained] == [(20, 1), (20, 8)]
    assert all(
        min(row["ratio"], row["tokens_per_s"], row["ours_ms"], row["peft_ms"], row["roofline"]) > 0 for row in trained
    )
    served = {(row["case"], row["prompts"]): row for row in done if row["section"] == "serving"}
    assert served["mixed", "warm"]["ratio"] > 0
    assert served["mixed", "cold"]["prefix_misses"] > served["mixed", "warm"]["prefix_misses"]
    assert served["latency", "warm"]["first_token_ms"] > 0
    assert all(min(row["new_ms"], row["again_ms"]) > 0 for row in done if row["section"] == "shapes")
    assert {(row["attention"], row["ok"]) for row in done if row["section"] == "attention"} == {
        ("eager", True),
        ("sdpa", True),
    }
    assert [(row["section"], row.get("attention"), row["unavailable"]) for row in rows if row not in done] == [
        ("training", None, "--quick takes random models alone"),
        *[("4bit", None, "4-bit bases need a CUDA GPU")] * 3,
        ("attention", "flex_attention", "flex_attention has no backward pass on a CPU"),
    ]


def test_no_row_is_begun_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = run_main(monkeypatch, capsys, "--json", "--seconds", "0")
    rows = [json.loads(line) for line in printed.splitlines()]
    assert {row["section"] for row in rows} == set(gpu.COLUMNS)
    assert {row["skipped"] for row in rows} == {"the 0 seconds were over"}
    assert code == 0


def fail(error: Exception) -> Row:
    raise error


def test_a_row_that_fails_does_not_end_the_others() -> None:
    rows: list[Row] = []
    cases: list[Callable[[], Row]] = [
        lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")),
        lambda: fail(gpu.Unavailable("it is not here")),
        lambda: {"ok": True},
    ]

    def run(some: list[Callable[[], Row]]) -> bool:
        rows.clear()
        made = (gpu.Case("training", {"P": n}, one) for n, one in enumerate(some))
        return gpu.run_cases(made, 60, time.perf_counter(), CPU, rows.append)

    assert not run(cases)
    assert [row["P"] for row in rows] == [0, 1, 2]
    assert rows[0]["failed"].startswith("out of memory: OutOfMemoryError: CUDA out of memory.")
    assert (rows[1]["unavailable"], rows[2]["ok"]) == ("it is not here", True)
    assert run(cases[1:])
    assert not run([lambda: {"ok": False}, *cases[1:]])


@pytest.mark.parametrize("section", gpu.COLUMNS)
def test_tables_have_one_head_and_fit_eighty_columns(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    emit = gpu.Printer(False, None)
    names = [column.split(":")[0] for column in gpu.COLUMNS[section].split()]
    emit({"section": section, **dict.fromkeys(names, 10)})
    emit({"section": section, names[0]: "tiny", "failed": "why"})
    emit({"section": section, names[0]: "tiny"})
    empty, title, head, row, failed, last = capsys.readouterr().out.splitlines()
    assert (empty, title, head.split()) == ("", section, names)
    assert row.split() == ["10"] * len(names)
    assert failed == "tiny  failed: why"
    assert last.split() == ["tiny", *"-" * (len(names) - 1)]
    assert len(head) == len(row) == len(last) <= 80


@pytest.mark.parametrize("dtype", ALWAYS)
@pytest.mark.parametrize("what", ["losses_K", "gradient_KPD", "scores_BC"])
def test_a_wrong_result_is_not_ok(outcome: Outcome, what: str, dtype: torch.dtype) -> None:
    right = getattr(outcome, what)

    def ok(wrong: torch.Tensor) -> bool:
        return bool(judged(outcome, outcome, replace(outcome, **{what: wrong}), 0.0, dtype)["ok"])

    def off(share: float) -> torch.Tensor:
        """One prompt's, or row's, alone is away by a share."""
        wrong = right.clone()
        wrong[1] += share * (right[1] if what == "gradient_KPD" else right[1].abs().clamp_min(1))
        return wrong

    assert ok(right)
    assert ok(off(ALWAYS[dtype] / 2))
    assert not ok(off(ALWAYS[dtype] * 2))
    assert not ok(off(float("nan")))


def test_a_prompt_whose_gradient_amplifies_rounding_may_be_as_far_as_the_cpu_is_and_excuses_no_other(
    outcome: Outcome,
) -> None:
    def off(*shares: float) -> Outcome:
        return replace(outcome, gradient_KPD=outcome.gradient_KPD * (1 + torch.tensor(shares)[:, None, None]))

    def ok(other: Outcome) -> bool:
        return bool(judged(outcome, off(0.1, 0, 0), other, 0.0, torch.bfloat16)["ok"])

    assert ok(off(0.1 * TIMES * 0.99, 0, 0))
    assert not ok(off(0.1 * TIMES * 1.01, 0, 0))
    assert not ok(off(0, 0.1 * TIMES * 0.99, 0))


def test_other_tokens_and_another_way_are_not_ok(outcome: Outcome) -> None:
    base = make_base("llama")
    texts = [list(text) for text in outcome.texts]
    assert any(texts)
    assert greedy_gap(base, texts, torch.float32) < 1e-5
    row = next(number for number, text in enumerate(texts) if text)
    texts[row][0] = (texts[row][0] + 7) % 300
    gap = greedy_gap(base, texts, torch.float32)
    assert not judged(outcome, outcome, outcome, gap, torch.float32)["ok"]
    assert not judged(outcome, outcome, replace(outcome, way="concatenated"), 0.0, torch.float32)["ok"]


def test_other_weights_are_found_out() -> None:
    base = make_base("llama")
    referee = Referee(base, torch.bfloat16)
    assert referee.judge(make_base("llama", dtype=torch.bfloat16))["ok"]
    found = referee.judge(make_base("llama", dtype=torch.bfloat16, seed=1))
    assert not found["ok"]
    assert min(found["loss"], found["gradient"], found["score"], found["greedy_gap"]) > 0.1
