"""The bank: each prompt's optimiser equals one of its own, whatever else is trained beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from softprompt.training.steps.bank import Bank, Banks, Rule
from softprompt.training.steps.reparameterize import Network

LENGTHS = (5, 2, 7, 1)
NETWORKS = (Network("RESIDUAL", 3, 0), None, Network("MLP", 4, 1), Network("RESIDUAL", 2, 2))
WIDTH = 6
STEPS = 7
RATES = (0.1, 0.02, 0.3, 0.005)
DECAYS = (0.0, 0.1, 0.5, 0.01)
BETAS = [0.98, 0.9, 0.999, 0.98]


def some(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def starts() -> list[Tensor]:
    return [some((length, WIDTH), index) for index, length in enumerate(LENGTHS)]


def gradient(index: int, step: int) -> Tensor:
    return some((LENGTHS[index], WIDTH), 100 + 10 * step + index) * (1 + index)


def padded(gradients: Sequence[Tensor]) -> Tensor:
    """As the bank wants them: padded on the left, here with rubbish that must not matter."""
    longest = max(LENGTHS)
    rows = [torch.cat([torch.full((longest - len(one), WIDTH), 1e3), one]) for one in gradients]
    return torch.stack(rows)


def rules(optim: str, bound: float = 1e9) -> list[Rule]:
    return [Rule(optim, decay, bound, beta2=beta) for decay, beta in zip(DECAYS, BETAS, strict=True)]


def rate(index: int, step: int) -> float:
    return RATES[index] / (1 + step)


def networked(optim: str = "adamw", bound: float = 1e9) -> list[Rule]:
    return [Rule(optim, decay, bound, *rest) for decay, *rest in zip(DECAYS, NETWORKS, BETAS, strict=True)]


def run_bank(bank: Bank, which: Sequence[int] = range(len(LENGTHS))) -> Bank:
    for step in range(STEPS):
        bank.step(which, padded([gradient(i, step) for i in which]), [rate(i, step) for i in which])
    return bank


def test_adamw_equals_the_optimiser_of_torch_for_each_prompt() -> None:
    bank = run_bank(Bank(starts(), rules("adamw")))
    for index, start in enumerate(starts()):
        vectors = torch.nn.Parameter(start.clone())
        optimiser = torch.optim.AdamW([vectors], weight_decay=DECAYS[index], betas=(0.9, BETAS[index]))
        for step in range(STEPS):
            optimiser.param_groups[0]["lr"] = rate(index, step)
            vectors.grad = gradient(index, step)
            optimiser.step()
        torch.testing.assert_close(bank.prompt(index), vectors.data, rtol=1e-4, atol=2e-5)
        assert not torch.equal(bank.prompt(index), start)


def adafactor(start: Tensor, gradients: Sequence[Tensor], rates: Sequence[float], decay: float) -> Tensor:
    """Shazeer and Stern (2018), algorithms 4 and 5, number by number: no momentum, no relative step size."""
    length, width = start.shape
    vectors = [[float(x) for x in row] for row in start]
    by_row, by_column = [0.0] * length, [0.0] * width
    for step, (grad, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        beta = 1 - step**-0.8
        squares = [[float(g) ** 2 + 1e-30 for g in row] for row in grad]
        for i in range(length):
            by_row[i] = beta * by_row[i] + (1 - beta) * sum(squares[i])
        for j in range(width):
            by_column[j] = beta * by_column[j] + (1 - beta) * sum(row[j] for row in squares)
        update = [
            [float(grad[i, j]) / math.sqrt(by_row[i] * by_column[j] / sum(by_row)) for j in range(width)]
            for i in range(length)
        ]
        size = math.sqrt(sum(u * u for row in update for u in row) / (length * width))
        for i in range(length):
            for j in range(width):
                vectors[i][j] -= lr * (update[i][j] / max(1.0, size) + decay * vectors[i][j])
    return torch.tensor(vectors)


def test_adafactor_equals_the_algorithm_of_the_paper_for_each_prompt() -> None:
    bank = run_bank(Bank(starts(), rules("adafactor")))
    for index, start in enumerate(starts()):
        steps = range(STEPS)
        expected = adafactor(start, [gradient(index, s) for s in steps], [rate(index, s) for s in steps], DECAYS[index])
        torch.testing.assert_close(bank.prompt(index), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_a_prompt_does_not_depend_on_what_else_is_in_the_bank(optim: str) -> None:
    other = "adafactor" if optim == "adamw" else "adamw"
    mixed = [Rule(optim if index == 1 else other, DECAYS[index], 1.5) for index in range(len(LENGTHS))]
    together = run_bank(Bank(starts(), mixed))
    alone = Bank([starts()[1]], [mixed[1]])
    for step in range(STEPS):
        alone.step([0], gradient(1, step)[None], [rate(1, step)])
    torch.testing.assert_close(together.prompt(1), alone.prompt(0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_a_prompt_that_takes_no_step_is_left_as_it_is(optim: str) -> None:
    bank = Bank(starts(), rules(optim))
    run_bank(bank, which=[3, 0])
    for index in (1, 2):
        assert torch.equal(bank.prompt(index), starts()[index])
        assert bank.steps_K[index] == 0
    # When it comes in later it begins as if it were new: its steps are its own.
    run_bank(bank, which=[2])
    fresh = run_bank(Bank(starts(), rules(optim)), which=[2])
    torch.testing.assert_close(bank.prompt(2), fresh.prompt(2))


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_padding_stays_zero_and_lengths_stay_their_own(optim: str) -> None:
    bank = run_bank(Bank(starts(), rules(optim)))
    for index, length in enumerate(LENGTHS):
        assert bank.prompt(index).shape == (length, WIDTH)
        assert not bank.vectors_KPD[index, : max(LENGTHS) - length].any()
        assert bank.prompt(index).isfinite().all()


def test_gradients_are_clipped_for_each_prompt_by_its_own_norm() -> None:
    bounds = (0.5, 1e9, 2.0, 0.1)
    clipped = Bank(starts(), [Rule("adamw", 0.0, bound) for bound in bounds])
    plain = Bank(starts(), [Rule("adamw", 0.0, 1e9) for _ in bounds])
    which = range(len(LENGTHS))
    for step in range(STEPS):
        raw = [gradient(index, step) * 10**step for index in which]
        rates = [rate(index, step) for index in which]
        clipped.step(which, padded(raw), rates)
        by_hand = [one * min(1.0, bounds[i] / float(one.norm())) for i, one in enumerate(raw)]
        plain.step(which, padded(by_hand), rates)
    torch.testing.assert_close(clipped.vectors_KPD, plain.vectors_KPD)
    unclipped = Bank(starts(), [Rule("adamw", 0.0, 1e9) for _ in bounds])
    for step in range(STEPS):
        unclipped.step(which, padded([gradient(i, step) * 10**step for i in which]), [rate(i, step) for i in which])
    assert not torch.allclose(clipped.prompt(0), unclipped.prompt(0), rtol=1e-3)


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_a_gradient_of_zeros_moves_nothing_but_by_decay(optim: str) -> None:
    bank = Bank(starts(), [Rule(optim, 0.0, 1.0), *rules(optim)[1:]])
    bank.step(range(4), torch.zeros(4, max(LENGTHS), WIDTH), RATES)
    assert torch.equal(bank.prompt(0), starts()[0])
    torch.testing.assert_close(bank.prompt(2), starts()[2] * (1 - RATES[2] * DECAYS[2]))


def test_what_is_handed_out_is_a_copy() -> None:
    bank = Bank(starts(), rules("adamw"))
    bank.prompt(0).zero_()
    assert torch.equal(bank.prompt(0), starts()[0])


# Reparameterised prompts


class Encoder(torch.nn.Module):
    """The network of a prompt, out of the modules of torch."""

    def __init__(self, start_PD: Tensor, network: Network) -> None:
        super().__init__()
        spread = start_PD.std()
        self.vectors = torch.nn.Parameter(start_PD.clone())
        self.down = torch.nn.Linear(WIDTH, network.hidden, bias=False)
        self.up = torch.nn.Linear(network.hidden, WIDTH, bias=False)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.skips = network.kind == "RESIDUAL"
        generator = torch.Generator().manual_seed(network.seed)
        with torch.no_grad():
            self.down.weight.copy_(torch.randn(network.hidden, WIDTH, generator=generator) / (spread * WIDTH**0.5))
            self.up.weight.copy_(torch.randn(network.hidden, WIDTH, generator=generator).T)
            self.norm.weight.fill_(0.0 if self.skips else float(spread))

    def forward(self) -> Tensor:
        made = self.norm(self.up(self.down(self.vectors).relu()))
        return self.vectors + made if self.skips else made


def test_a_reparameterised_prompt_equals_its_network_trained_by_torch() -> None:
    bank = run_bank(Bank(starts(), networked()))
    for index, network in enumerate(NETWORKS):
        if network is None:
            continue
        encoder = Encoder(starts()[index], network)
        optimiser = torch.optim.AdamW(encoder.parameters(), weight_decay=DECAYS[index], betas=(0.9, BETAS[index]))
        for step in range(STEPS):
            optimiser.param_groups[0]["lr"] = rate(index, step)
            optimiser.zero_grad()
            encoder().backward(gradient(index, step))
            optimiser.step()
        torch.testing.assert_close(bank.prompt(index), encoder().detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(bank.vectors_KPD[index, -LENGTHS[index] :], bank.prompt(index))


def test_a_residual_network_starts_from_the_very_vectors_given_and_then_matters() -> None:
    bank = Bank(starts(), networked())
    for index in (0, 1, 3):
        assert torch.equal(bank.prompt(index), starts()[index])
    assert not torch.allclose(bank.prompt(2), starts()[2])
    plain = run_bank(Bank(starts(), rules("adamw")))
    run_bank(bank)
    assert torch.equal(bank.prompt(1), plain.prompt(1)), "a plain prompt beside networks is trained as ever, to the bit"
    assert not torch.allclose(bank.prompt(0), plain.prompt(0), rtol=1e-2)


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
@pytest.mark.parametrize("index", range(4))
def test_a_reparameterised_prompt_does_not_depend_on_what_else_is_in_the_bank(optim: str, index: int) -> None:
    together = run_bank(Bank(starts(), networked(optim, 1.5)))
    alone = Bank([starts()[index]], [networked(optim, 1.5)[index]])
    for step in range(STEPS):
        alone.step([0], gradient(index, step)[None], [rate(index, step)])
    torch.testing.assert_close(together.prompt(index), alone.prompt(0), rtol=1e-4, atol=1e-5)


def test_what_is_not_in_use_stays_zero() -> None:
    bank = run_bank(Bank(starts(), networked("adafactor")))
    assert not (bank.trained_KRD * (1 - bank.mask_KR1)).any()
    assert not bank.vectors_KPD[1, : max(LENGTHS) - LENGTHS[1]].any()
    assert [int(mask.sum()) for mask in bank.mask_KR1] == [5 + 2 + 2 * 3, 2, 7 + 2 + 2 * 4, 1 + 2 + 2 * 2]


OTHERS = (Network("LSTM", 3, 0), Network("LOW_RANK", 1, 1), Network("LSTM", 2, 2), None)
"""Beside which the prompts have the lengths 5, 2, 7 and 1."""


class Reader(torch.nn.Module):
    """An LSTM before a prompt, out of the modules of torch: the slow twin."""

    def __init__(self, start_PD: Tensor, network: Network) -> None:
        super().__init__()
        size = network.hidden
        gain, bias, up, into, back, offset, mix = network.parts(network.start(start_PD)[None], len(start_PD))
        self.lstm = torch.nn.LSTM(WIDTH, size, bidirectional=True)
        self.vectors = torch.nn.Parameter(start_PD.clone())
        self.up, self.gain, self.bias = (torch.nn.Parameter(part[0].clone()) for part in (up, gain, bias))
        self.mix = torch.nn.Parameter(mix[0].clone())
        self.back = torch.nn.Parameter(back[0].clone())
        self.into = torch.nn.Parameter(into[0].reshape(2, 4 * size, WIDTH).clone())
        self.offset = torch.nn.Parameter(offset[0, :, 0].clone())
        self.size = size

    def forward(self) -> Tensor:
        weights = {}
        for place, end in enumerate(("l0", "l0_reverse")):
            weights[f"weight_ih_{end}"], weights[f"bias_ih_{end}"] = self.into[place], self.offset[place]
            weights[f"weight_hh_{end}"] = self.back[place] / self.size**0.5
            weights[f"bias_hh_{end}"] = torch.zeros(4 * self.size)
        read, _ = torch.func.functional_call(self.lstm, weights, (self.vectors,))
        hidden = torch.relu(torch.nn.functional.linear(read, self.mix) / (2 * self.size) ** 0.5)
        return self.gain * torch.nn.functional.layer_norm(hidden @ self.up, (WIDTH,)) + self.bias

    def trained(self) -> list[torch.nn.Parameter]:
        return [self.vectors, self.up, self.gain, self.bias, self.mix, self.back, self.into, self.offset]


class Ranked(torch.nn.Module):
    """A matrix of low rank beside a prompt that stays where it starts."""

    def __init__(self, start_PD: Tensor, network: Network) -> None:
        super().__init__()
        up, down = network.parts(network.start(start_PD)[None], len(start_PD))
        self.vectors, self.rank = start_PD, network.hidden
        self.up, self.down = torch.nn.Parameter(up[0].clone()), torch.nn.Parameter(down[0].clone())

    def forward(self) -> Tensor:
        return self.vectors + self.down @ self.up / self.rank**0.5

    def trained(self) -> list[torch.nn.Parameter]:
        return [self.up, self.down]


def others(optim: str = "adamw", bound: float = 1e9) -> list[Rule]:
    return [Rule(optim, decay, bound, *rest) for decay, *rest in zip(DECAYS, OTHERS, BETAS, strict=True)]


def test_an_lstm_and_a_low_rank_equal_the_modules_of_torch_trained_by_autograd() -> None:
    bank = run_bank(Bank(starts(), others()))
    for index, network in enumerate(OTHERS[:3]):
        assert network is not None
        twin: Reader | Ranked = (Reader if network.kind == "LSTM" else Ranked)(starts()[index], network)
        torch.testing.assert_close(
            Bank([starts()[index]], [others()[index]]).prompt(0), twin().detach(), rtol=1e-5, atol=1e-5
        )
        optimiser = torch.optim.AdamW(twin.trained(), weight_decay=DECAYS[index], betas=(0.9, BETAS[index]))
        for step in range(STEPS):
            optimiser.param_groups[0]["lr"] = rate(index, step)
            optimiser.zero_grad()
            twin().backward(gradient(index, step))
            optimiser.step()
        torch.testing.assert_close(bank.prompt(index), twin().detach(), rtol=1e-3, atol=1e-3)
        assert sum(part.numel() for part in twin.trained()) == network.numbers(LENGTHS[index], WIDTH) + (
            LENGTHS[index] * WIDTH if network.trains_vectors else 0
        )


def test_a_low_rank_starts_from_the_very_vectors_given_and_adds_no_more_than_its_rank() -> None:
    prompts = [some((9, WIDTH), 3), some((5, WIDTH), 4)]
    bank = Bank(prompts, [Rule("adamw", 0.3, 1e9, Network("LOW_RANK", rank, 0)) for rank in (2, 1)])
    assert torch.equal(bank.prompt(0), prompts[0])
    for step in range(STEPS):
        bank.step([0, 1], torch.stack([some((9, WIDTH), 50 + step), some((9, WIDTH), 70 + step)]), [0.1, 0.1])
    for index, rank in enumerate((2, 1)):
        assert torch.linalg.matrix_rank(bank.prompt(index) - prompts[index], atol=1e-4) == rank
        assert torch.equal(bank.trained_KRD[index, -len(prompts[index]) :], prompts[index]), "decay leaves them, too"


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
@pytest.mark.parametrize("index", range(4))
def test_an_lstm_or_a_low_rank_does_not_depend_on_what_else_is_in_the_bank(optim: str, index: int) -> None:
    together = run_bank(Bank(starts(), others(optim, 1.5)))
    alone = Bank([starts()[index]], [others(optim, 1.5)[index]])
    for step in range(STEPS):
        alone.step([0], gradient(index, step)[None], [rate(index, step)])
    torch.testing.assert_close(together.prompt(index), alone.prompt(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.vectors_KPD[index, -LENGTHS[index] :], together.prompt(index))
    assert not together.vectors_KPD[index, : max(LENGTHS) - LENGTHS[index]].any()


def test_their_states_go_on_to_the_bit_also_beside_other_networks() -> None:
    whole, first = run_bank(run_bank(Bank(starts(), others()))), run_bank(Bank(starts(), others()))
    second = Bank([torch.zeros_like(start) for start in starts()], others())
    for index in range(len(LENGTHS)):
        second.load_state(index, first.state(index))
    run_bank(second)
    assert torch.equal(second.vectors_KPD, whole.vectors_KPD)
    joined = Bank(starts()[:1], others()[:1])
    joined.extend(starts()[1:], networked()[1:])
    assert torch.equal(joined.prompt(0), Bank(starts()[:1], others()[:1]).prompt(0))
    joined.load_state(0, first.state(0))
    torch.testing.assert_close(joined.prompt(0), first.prompt(0))
    torch.testing.assert_close(joined.alone(0).prompt(0), first.prompt(0))


def test_the_gradient_of_the_plain_vectors_is_what_is_clipped() -> None:
    bound = 0.5
    clipped, plain = Bank(starts(), networked("adamw", bound)), Bank(starts(), networked("adamw"))
    which = range(len(LENGTHS))
    for step in range(STEPS):
        raw = [gradient(i, step) * 10**step for i in which]
        rates = [rate(i, step) for i in which]
        clipped.step(which, padded(raw), rates)
        plain.step(which, padded([one * min(1.0, bound / float(one.norm())) for one in raw]), rates)
    torch.testing.assert_close(clipped.vectors_KPD, plain.vectors_KPD)


def test_a_state_that_is_loaded_goes_on_to_the_bit() -> None:
    whole, first = Bank(starts(), networked()), Bank(starts(), networked())
    run_bank(run_bank(whole))
    run_bank(first)
    second = Bank([torch.zeros_like(start) for start in starts()], networked())
    for index in range(len(LENGTHS)):
        second.load_state(index, first.state(index))
    run_bank(second)
    assert torch.equal(second.vectors_KPD, whole.vectors_KPD)


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_prompts_that_join_later_leave_those_there_as_they_would_be(optim: str) -> None:
    """Whatever the newcomers' lengths and networks do to the shapes."""
    alone, joined = (Bank(starts()[:2], networked(optim)[:2]) for _ in range(2))
    late = Bank(starts()[2:], networked(optim)[2:])

    def take(bank: Bank, which: range, step: int) -> None:
        own = [gradient(i, step) for i in which]
        rows = torch.stack([torch.nn.functional.pad(one, (0, 0, max(bank.lengths) - len(one), 0)) for one in own])
        bank.step([i - which[0] for i in which], rows, [rate(i, step) for i in which])

    for step in range(STEPS):
        take(alone, range(2), step)
        take(joined, range(2), step)
    joined.extend(starts()[2:], networked(optim)[2:])
    for step in range(STEPS):
        take(alone, range(2), step)
        take(late, range(2, 4), step)
        take(joined, range(4), step)
    for index in range(4):
        expected = alone.prompt(index) if index < 2 else late.prompt(index - 2)
        torch.testing.assert_close(joined.prompt(index), expected)


def test_a_bank_of_none_takes_its_first_prompts_later() -> None:
    bank = Bank([], [])
    bank.extend(starts(), networked())
    assert torch.equal(run_bank(bank).vectors_KPD, run_bank(Bank(starts(), networked())).vectors_KPD)


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_prompts_that_are_kept_when_others_go_step_as_before(optim: str) -> None:
    """Of two widths, of which one goes altogether."""
    whole = run_bank(Bank(starts(), networked(optim)))
    kept = [3, 0]
    whole.keep(kept)
    assert whole.lengths == [LENGTHS[index] for index in kept]
    twin = run_bank(Bank(starts(), networked(optim)))
    whole.step([0, 1], padded([gradient(index, 9) for index in kept]), [0.1, 0.2])
    twin.step(kept, padded([gradient(index, 9) for index in kept]), [0.1, 0.2])
    for place, index in enumerate(kept):
        torch.testing.assert_close(whole.prompt(place), twin.prompt(index), rtol=0, atol=1e-5)

    wide = some((2, WIDTH + 1), 7)
    banks = Banks([*starts(), wide], [*networked(optim), Rule(optim, 0.0, 1e9)])
    before = banks.prompt(2)
    banks.keep([4, 2])
    torch.testing.assert_close(banks.prompt(0), wide)
    torch.testing.assert_close(banks.prompt(1), before)
    banks.keep([1])
    torch.testing.assert_close(banks.prompt(0), before)
    assert [own for _, own, _ in banks.parts([0])] == [[0]]
    banks.keep([])
    banks.extend([wide], [Rule(optim, 0.0, 1e9)])
    torch.testing.assert_close(banks.prompt(0), wide)
