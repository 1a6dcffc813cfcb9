"""The splice and the shared prefix: fast paths equal slow, obvious twins on every architecture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.engines.batch import CachedRows
from softprompt.engines.offline import OfflineEngine
from softprompt.engines.prefix_cache import PrefixCache
from softprompt.engines.protocol import GenerateJob, Sampling, Vectors
from softprompt.evaluation.trials import result_of
from softprompt.model.kinds.causal import Causal
from softprompt.model.prefix import fixed_cache
from softprompt.model.splice import chunk_by_length, pad_rows, splice_rows, stack_prompts
from softprompt.training.objectives import LABEL_SCORING, LANGUAGE_MODELING, LabelTarget
from softprompt.training.steps.forward import Example, losses_and_gradient
from tests.engine_jobs import generate_offline
from tests.models import ARCHITECTURES, VOCABULARY, logits_of_rows, make_base, make_causal, tokenizer

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
# Gemma 2 caps its attention logits, which the fused kernel cannot do, so transformers offers it eager attention alone.
each_attention = pytest.mark.parametrize(
    ("architecture", "attention"),
    [(name, kind) for name in ARCHITECTURES for kind in ("eager", "sdpa") if (name, kind) != ("gemma2", "sdpa")],
)


def some_ids(count: int, seed: int) -> list[int]:
    return torch.randint(2, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def some_prompts(base: FrozenBase, lengths: tuple[int, ...] = (9, 4, 1)) -> list[torch.Tensor]:
    """Prompts of unequal lengths, the first longer than the sliding windows."""
    spread = base.embedding.weight.std()
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(n, base.width, generator=generator) * spread for n in lengths]


ROWS = [some_ids(n, seed) for seed, n in enumerate((12, 5, 8, 1, 15, 3))]
WHICH = [0, 1, 2, 0, 1, 1]


def alone(base: FrozenBase, prompt_PD: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """Logits T x V of one row run by itself, nothing padded, no cache: the obvious way."""
    embeds = torch.cat([prompt_PD, base.embed(torch.tensor(ids))])[None]
    logits: torch.Tensor = base.model(inputs_embeds=embeds, use_cache=False).logits[0, len(prompt_PD) :]
    return logits


@each_architecture
def test_splicing_embeddings_of_tokens_equals_running_the_tokens(architecture: str) -> None:
    causal = make_causal(architecture)
    base = causal.base
    front, ids = some_ids(5, 1), some_ids(9, 2)
    stack = stack_prompts([base.embed(torch.tensor(front))])
    whole = base.model(input_ids=torch.tensor([front + ids]), use_cache=False).logits[0, len(front) :]
    for prefix in (None, causal.compute_prefix(stack)):
        torch.testing.assert_close(logits_of_rows(causal, stack, prefix, [0], [ids]), whole, rtol=1e-4, atol=1e-4)


@each_attention
def test_each_row_of_a_mixed_batch_equals_that_row_alone(architecture: str, attention: str) -> None:
    causal = make_causal(architecture, attention=attention)
    prompts = some_prompts(causal.base)
    stack = stack_prompts(prompts)
    expected = torch.cat([alone(causal.base, prompts[prompt], row) for prompt, row in zip(WHICH, ROWS, strict=True)])
    for prefix in (causal.compute_prefix(stack), None):
        mixed = logits_of_rows(causal, stack, prefix, WHICH, ROWS)
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-4)


@each_architecture
def test_a_row_without_a_prompt_equals_the_plain_model(architecture: str) -> None:
    causal = make_causal(architecture)
    base = causal.base
    prompts = [*some_prompts(base), torch.zeros(0, base.width)]
    stack = stack_prompts(prompts)
    for prefix in (None, causal.compute_prefix(stack)):
        logits = causal.logits_behind(stack, prefix, [3, 1, 3, 0, 2, 3], ROWS, [[]] * len(ROWS))
        for index in (0, 2, 5):
            plain = base.model(input_ids=torch.tensor([ROWS[index]]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits[index], plain, rtol=1e-4, atol=1e-4)


@each_architecture
def test_left_padded_input_equals_right_padded(architecture: str) -> None:
    """Rows that generate enter padded on the left, and rows that are scored are padded on the right."""
    causal = make_causal(architecture)
    prompts = some_prompts(causal.base)
    stack = stack_prompts(prompts)
    vectors = [Vectors(str(number), prompt_PD) for number, prompt_PD in enumerate(prompts)]
    jobs = [GenerateJob(vectors[which], tuple(row), Sampling(max_tokens=1)) for which, row in zip(WHICH, ROWS, strict=True)]
    with torch.no_grad():
        left = CachedRows(causal, PrefixCache(causal, 1 << 20)).enter(jobs)
        for prefix in (causal.compute_prefix(stack), None):
            right = causal.run_padded(stack, prefix, WHICH, ROWS, [[]] * len(ROWS))
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@each_architecture
def test_gradient_of_the_shared_prefix_equals_concatenation(architecture: str) -> None:
    causal = make_causal(architecture)
    assert causal.shares_prefix
    stack = stack_prompts(some_prompts(causal.base))
    labels = tuple(tuple(some_ids(n, 30 + n)) for n in (1, 3, 2))
    raw = [
        Example(which, row, LABEL_SCORING, LabelTarget(labels, index % 3), 0.0)
        if index % 2
        else Example(which, row, LANGUAGE_MODELING, some_ids(1 + index % 3, 40 + index), 0.0)
        for index, (which, row) in enumerate(zip(WHICH, ROWS, strict=True))
    ]
    totals = [0.0] * 3
    for example in raw:
        totals[example.which] += example.objective.size(example.target)
    examples = [replace(example, weight=1 / totals[example.which]) for example in raw]
    shared_loss, shared = losses_and_gradient(causal, stack, examples, shared=True, token_budget=40)
    plain_loss, plain = losses_and_gradient(causal, stack, examples, shared=False)
    torch.testing.assert_close(shared_loss, plain_loss, rtol=1e-5, atol=1e-5)
    assert (shared - plain).norm() <= 1e-5 * plain.norm()
    assert (plain.flatten(1).norm(dim=1) > 0).all()


@each_architecture
def test_gradient_of_a_mixed_batch_equals_each_prompt_alone(architecture: str) -> None:
    causal = make_causal(architecture)
    prompts = some_prompts(causal.base)
    examples = [
        Example(which, row, LANGUAGE_MODELING, some_ids(2, i), 0.25)
        for i, (which, row) in enumerate(zip(WHICH, ROWS, strict=True))
    ]
    stack = stack_prompts(prompts)
    losses, mixed = losses_and_gradient(causal, stack, examples)
    for index, prompt_PD in enumerate(prompts):
        own = [replace(example, which=0) for example in examples if example.which == index]
        loss, gradient = losses_and_gradient(causal, stack_prompts([prompt_PD]), own)
        torch.testing.assert_close(losses[index], loss[0], rtol=1e-5, atol=1e-5)
        assert (mixed[index, -len(prompt_PD) :] - gradient[0]).norm() <= 2e-5 * gradient.norm()


@each_attention
def test_generation_in_one_mixed_batch_equals_running_everything_again(architecture: str, attention: str) -> None:
    base = make_base(architecture, attention=attention)
    prompts = [*some_prompts(base), torch.zeros(0, base.width)]
    which, bounds = [0, 1, 2, 3, 1, 1], [9, 2, 7, 11, 1, 8]
    answers = generate_offline(base, prompts, which, ROWS, bounds)
    for index, row in enumerate(ROWS):
        grown = list(row)
        for token in [*answers[index], None]:
            logits = alone(base, prompts[which[index]], grown)[-1]
            best = int(logits.argmax())
            if token is None:
                assert best in base.end_ids or len(answers[index]) == bounds[index]
            else:
                assert token == best
                grown.append(token)


@each_architecture
def test_scores_equal_the_sum_of_log_probabilities_of_each_label_alone(architecture: str) -> None:
    base = make_base(architecture)
    prompts = some_prompts(base)
    short = tuple(tuple(some_ids(1, seed)) for seed in (50, 51))
    shared_start = ((7, 8), (7,), (9, 5, 7), (9, 5))
    labels = [short, shared_start, short, shared_start, shared_start, short]
    scores = result_of(OfflineEngine(Causal(base), token_budget=60).score(prompts, WHICH, ROWS, labels))
    for index, row in enumerate(ROWS):
        for number, label in enumerate(labels[index]):
            logits = alone(base, prompts[WHICH[index]], row + list(label))[len(row) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(label)[:, None]).sum()
            assert scores[index][number] == pytest.approx(float(expected), abs=1e-3, rel=1e-4)


def test_padding_never_stands_between_prompt_and_tokens() -> None:
    prompts = [torch.ones(2, 4), torch.ones(5, 4)]
    stack = stack_prompts(prompts)
    tokens = pad_rows([[1, 2, 3], [4]])
    _, spliced, start = splice_rows(stack, torch.tensor([0, 1]), torch.zeros(2, 3, 4), tokens.mask_BT)
    assert spliced.mask_BS.int().diff(dim=1).max() <= 0
    assert start.tolist() == [2, 5]
    assert spliced.positions_BS.tolist() == [[0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 4, 5]]


def test_chunks_cover_every_item_once_within_the_budget() -> None:
    lengths = [3, 50, 7, 7, 20, 1, 90]
    chunks = list(chunk_by_length(lengths, 60))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(lengths)))
    assert all(len(chunk) == 1 or len(chunk) * max(lengths[i] for i in chunk) <= 60 for chunk in chunks)


@each_architecture
def test_the_self_check_finds_the_shared_prefix_also_without_gradients(architecture: str) -> None:
    causal = make_causal(architecture)
    result_of(OfflineEngine(causal).score(some_prompts(causal.base), [0], [ROWS[0]], [((3,), (4,))]))
    assert causal.shares_prefix


def test_a_state_space_base_is_run_by_concatenation() -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    base = FrozenBase.wrap(transformers.AutoModelForCausalLM.from_config(config), tokenizer(), name="random/mamba")
    assert not Causal(base).shares_prefix
    prompts = [torch.randn(n, base.width, generator=torch.Generator().manual_seed(n)) for n in (3, 5)]
    answers = generate_offline(base, prompts, [0, 1], [ROWS[0], ROWS[1]], [4, 4])
    for index in (0, 1):
        grown = list(ROWS[index])
        for token in answers[index]:
            assert token == int(alone(base, prompts[index], grown)[-1].argmax())
            grown.append(token)


@each_architecture
def test_the_head_makes_the_logits_that_are_read_and_no_others(architecture: str) -> None:
    """Behind a prompt alone nobody reads any; and what it is given is contiguous, or torch copies the head for each row."""
    causal = make_causal(architecture)
    base, seen = causal.base, []

    def look(_: object, given: tuple[torch.Tensor]) -> None:
        seen.append((tuple(given[0].shape[:2]), given[0].is_contiguous()))

    stack = stack_prompts(some_prompts(base, (3, 2)))
    hook = base.model.get_output_embeddings().register_forward_pre_hook(look)
    try:
        cache = fixed_cache(causal.compute_prefix(stack), torch.tensor([0, 1]))
        ids_BT, positions_BT = torch.tensor([[4, 5], [6, 7]]), torch.tensor([[3, 4], [2, 3]])
        mask_BS = torch.cat([stack.mask_KP, torch.ones(2, 2, dtype=torch.bool)], dim=1)
        causal.run_cached(ids_BT, positions_BT, cache, mask_BS)
    finally:
        hook.remove()
    assert seen == [((2, 0), True), ((2, 1), True)]
