"""Prefixes: keys and values in a matrix, run as those of soft prompts are."""

from __future__ import annotations

import pytest
import torch

from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.offline import OfflineEngine
from softprompt.engines.prefix_cache import PrefixCache
from softprompt.engines.protocol import NO_PROMPT, GenerateJob, Sampling, ScoreJob, Scores, Vectors
from softprompt.errors import BaseModelError, EngineError
from softprompt.evaluation.trials import result_of
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.kinds.causal import Causal
from softprompt.model.kinds.encoder_decoder import EncoderDecoder
from softprompt.model.kinds.invariant import Invariant
from softprompt.model.prefix import Layout, Prefix, cache_argument, layout_for
from softprompt.model.splice import stack_prompts
from tests.engine_jobs import Inbox
from tests.models import ARCHITECTURES, UNEVEN, make_base, make_causal, make_seq2seq

LABELS = ((5,), (6, 7), (6, 8, 9))
INPUTS = [[4, 9, 17], [30], [11, 12, 13, 14, 15, 16, 17, 18, 19], [50, 51, 52, 53], [7, 8]]
WHICH = [0, 1, 2, 3, 1]


def some_soft(causal: Architecture, rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, causal.base.width, generator=torch.Generator().manual_seed(seed)) * 0.5


@torch.no_grad()
def as_prefix(causal: Architecture, soft_PD: torch.Tensor) -> torch.Tensor:
    """The prefix that a soft prompt is."""
    layout = layout_for(causal.base, causal.layout)
    return layout.fold(causal.compute_prefix(stack_prompts([soft_PD])))[0]


def some_prefix(causal: Architecture, rows: int, seed: int) -> torch.Tensor:
    """Keys and values that no soft prompt has."""
    width = layout_for(causal.base, causal.layout).width
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.5


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, UNEVEN])
def test_a_matrix_holds_the_keys_and_values_of_every_layer_and_gives_them_back(architecture: str) -> None:
    causal = make_causal(architecture)
    stack = stack_prompts([some_soft(causal, 5, 0), some_soft(causal, 5, 1)])
    with torch.no_grad():
        made = causal.compute_prefix(stack)
    layout = Layout.of(made)
    assert layout == causal.layout
    matrix_KPW = layout.fold(made)
    assert matrix_KPW.shape == (2, 5, layout.width)
    for given, found in zip(made.tensors(), layout.unfold(matrix_KPW).tensors(), strict=True):
        assert torch.equal(given, found)
        assert found.untyped_storage().data_ptr() == matrix_KPW.untyped_storage().data_ptr(), "nothing is copied"


def test_the_matrix_is_laid_as_peft_lays_it_where_all_layers_have_one_shape() -> None:
    layout = Layout(((2, 3, 3),) * 2)
    matrix_1PW = torch.arange(4.0 * layout.width).view(1, 4, layout.width)
    by_peft = matrix_1PW.view(1, 4, 4, 2, 3).permute(2, 0, 3, 1, 4)  # keys of a layer, then its values
    for found, expected in zip(layout.unfold(matrix_1PW).tensors(), by_peft, strict=True):
        assert torch.equal(found, expected)


def run_alone(causal: Architecture, prompt: torch.Tensor, ids: list[int], answer: list[int]) -> torch.Tensor:
    """Logits behind an input and each token of an answer: the row alone, by the model itself behind a cache of its own."""
    from transformers.cache_utils import DynamicCache

    base, count = causal.base, len(prompt)
    cache = DynamicCache()
    if count and prompt.shape[1] == base.width:
        cache = None
        embeds = torch.cat([prompt, base.embed(torch.tensor(ids + answer))])[None]
        more = {"inputs_embeds": embeds, "use_cache": False}
    else:
        if count:
            layers = layout_for(base, causal.layout).unfold(prompt[None]).layers
            for number, (keys, values) in enumerate(layers):
                cache.update(keys, values, number)
        positions = torch.arange(count, count + len(ids + answer))[None]
        more = {"input_ids": torch.tensor([ids + answer]), cache_argument(base.model): cache, "position_ids": positions}
    with torch.no_grad():
        logits: torch.Tensor = base.model(**more).logits[0]
    return logits[-len(answer) - 1 :]


def score_alone(causal: Architecture, prompt: torch.Tensor, ids: list[int]) -> list[float]:
    found = []
    for label in LABELS:
        logprobs = run_alone(causal, prompt, ids, list(label)).log_softmax(-1)
        found.append(sum(float(logprobs[place, token]) for place, token in enumerate(label)))
    return found


def mixed(causal: Architecture) -> list[torch.Tensor]:
    """A soft prompt, two prefixes and no prompt, of unequal lengths."""
    return [some_soft(causal, 5, 1), some_prefix(causal, 3, 2), torch.zeros(0, causal.base.width), some_prefix(causal, 7, 3)]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, UNEVEN])
def test_offline_prefixes_and_soft_prompts_share_a_batch_and_each_row_is_as_it_is_alone(architecture: str) -> None:
    causal = make_causal(architecture)
    prompts = mixed(causal)
    engine = OfflineEngine(causal)
    scores = result_of(engine.score(prompts, WHICH, INPUTS, [LABELS] * len(INPUTS)))
    for which, ids, found in zip(WHICH, INPUTS, scores, strict=True):
        assert found == pytest.approx(score_alone(causal, prompts[which], ids), abs=2e-3, rel=1e-4)
    answers = result_of(engine.generate(prompts, WHICH, INPUTS, [6] * len(INPUTS)))
    for which, ids, answer in zip(WHICH, INPUTS, answers, strict=True):
        assert_greedy(causal, prompts[which], ids, answer)


def assert_greedy(causal: Architecture, prompt: torch.Tensor, ids: list[int], answer: list[int]) -> None:
    logits = run_alone(causal, prompt, ids, answer)
    for place, token in enumerate(answer):
        assert float(logits[place].max() - logits[place, token]) <= 1e-3


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", UNEVEN])
def test_an_engine_that_serves_mixes_them_too(architecture: str) -> None:
    causal = make_causal(architecture)
    tensors = mixed(causal)
    prompts = [Vectors(f"{number:04x}", one) if len(one) else NO_PROMPT for number, one in enumerate(tensors)]
    engine = ContinuousEngine(causal)
    sampling = Sampling(max_tokens=6, logprobs=0)
    jobs = [GenerateJob(prompts[which], tuple(ids), sampling) for which, ids in zip(WHICH, INPUTS, strict=True)]
    jobs += [ScoreJob(prompts[which], tuple(ids), LABELS) for which, ids in zip(WHICH, INPUTS, strict=True)]
    boxes = [Inbox() for _ in jobs]
    engine.submit_all(list(zip(jobs, boxes, strict=True)))
    for which, ids, box in zip(WHICH, INPUTS, boxes[: len(INPUTS)], strict=True):
        assert box.wait().tokens
        assert_greedy(causal, tensors[which], ids, box.tokens)
    for which, ids, box in zip(WHICH, INPUTS, boxes[len(INPUTS) :], strict=True):
        assert isinstance(box.last, Scores)
        assert list(box.last.values) == pytest.approx(score_alone(causal, tensors[which], ids), abs=2e-3, rel=1e-4)
    held = engine.status().prefix_bytes
    keys_and_values = as_prefix(causal, tensors[0])
    assert held == keys_and_values.numel() * keys_and_values.element_size(), "of the soft prompt alone"
    assert engine.status().prefix_misses == 1
    engine.stop()


@pytest.mark.parametrize("architecture", ["llama", UNEVEN])
def test_a_prefix_is_neither_computed_nor_held_twice(architecture: str) -> None:
    causal = make_causal(architecture)
    prefix = Vectors("ab", some_prefix(causal, 4, 0))
    assert prefix.vectors_PD is not None
    cache = PrefixCache(causal, 1 << 30)
    layout = causal.layout
    causal.compute_prefix = None  # type: ignore[assignment,method-assign]
    (entry,) = cache.fetch([prefix])
    assert cache.bytes == cache.misses == 0
    storage = prefix.vectors_PD.untyped_storage().data_ptr()
    assert all(stack.untyped_storage().data_ptr() == storage for stack in entry.stacks)
    assert layout is not None
    for found, expected in zip(entry.layers, layout.unfold(prefix.vectors_PD[None]).layers, strict=True):
        assert all(torch.equal(one, other[0]) for one, other in zip(found, expected, strict=True))


def test_on_a_batch_invariant_base_no_bit_depends_on_the_batch() -> None:
    causal = Invariant(make_base("llama"))
    prompts = mixed(causal)
    engine = OfflineEngine(causal)
    together = result_of(engine.score(prompts, WHICH, INPUTS, [LABELS] * len(INPUTS)))
    answers = result_of(engine.generate(prompts, WHICH, INPUTS, [5] * len(INPUTS)))
    for row, (which, ids) in enumerate(zip(WHICH, INPUTS, strict=True)):
        assert result_of(engine.score([prompts[which]], [0], [ids], [LABELS])) == [together[row]]
        assert result_of(engine.generate([prompts[which]], [0], [ids], [5])) == [answers[row]]


def test_a_prefix_for_other_layers_is_refused() -> None:
    causal = make_causal("llama")
    wrong = torch.zeros(3, layout_for(causal.base, causal.layout).width + 8)
    engine = OfflineEngine(causal)
    with pytest.raises(
        BaseModelError, match=r"72 numbers .* other layers: random/llama has 2 layers of 2 x 8, which take 64"
    ):
        result_of(engine.score([wrong], [0], [[4]], [LABELS]))
    with pytest.raises(BaseModelError, match="other layers"):
        result_of(engine.generate([wrong], [0], [[4]], [2]))
    serving = ContinuousEngine(causal)
    with pytest.raises(EngineError, match=r"3 x 72; random/llama takes vectors of width 32, and prefixes of 64"):
        serving.submit(ScoreJob(Vectors("ab", wrong), (4,), LABELS), Inbox())
    serving.stop()


def test_a_base_that_takes_no_keys_and_values_refuses_every_prefix_by_name() -> None:
    t5 = EncoderDecoder(make_seq2seq("t5"))
    engine = OfflineEngine(t5)
    some = torch.zeros(3, 64)
    with pytest.raises(BaseModelError, match=r"T5ForConditionalGeneration\) takes no prefix"):
        result_of(engine.score([some, torch.zeros(2, t5.base.width)], [0], [[4]], [LABELS]))
    with pytest.raises(BaseModelError, match="takes no prefix"):
        result_of(engine.generate([some], [0], [[4]], [2]))


def test_a_base_whose_embeddings_are_as_wide_as_its_keys_and_values_takes_no_prefix() -> None:
    causal = make_causal("llama")
    causal.base.model.model.layers = causal.base.model.model.layers[:1]
    causal.base.model.config.num_hidden_layers = 1
    assert Layout.of(causal.compute_prefix(stack_prompts([some_soft(causal, 1, 0)]))).width == causal.base.width
    assert causal.layout is None


def test_uneven_layers_are_told_apart_in_words() -> None:
    assert str(Layout(((2, 8, 8), (2, 8, 8), (1, 16, 4)))) == "2 layers of 2 x 8, 1 layer of 1 x 16 and 4"


def test_prefixes_have_gradients_of_their_own_numbers() -> None:
    """Through views; each number's gradient is that of the key or value it is."""
    causal = make_causal("llama")
    layout = layout_for(causal.base, causal.layout)
    matrix_1PW = some_prefix(causal, 3, 0)[None].requires_grad_()
    made = causal.compute_prefix(stack_prompts([matrix_1PW[0]]))
    weights = [torch.randn(t.shape, generator=torch.Generator().manual_seed(n)) for n, t in enumerate(made.tensors())]
    sum((t * w).sum() for t, w in zip(made.tensors(), weights, strict=True)).backward()  # type: ignore[union-attr]
    expected = layout.fold(Prefix(list(zip(weights[::2], weights[1::2], strict=True))))
    assert torch.equal(matrix_1PW.grad, expected)
    assert architecture_of(causal.base).layout == Causal(causal.base).layout == layout


def test_keys_of_before_are_given_by_the_name_that_the_model_knows() -> None:
    class Old(torch.nn.Module):
        def forward(self, inputs_embeds: torch.Tensor, past_key_values: object = None) -> None: ...

    class New(torch.nn.Module):
        def forward(self, inputs_embeds: torch.Tensor, cache: object = None) -> None: ...

    class Around(torch.nn.Module):  # an encoder, whose own model alone names it
        def __init__(self) -> None:
            super().__init__()
            self.base_model = New()

        def forward(self, **rest: object) -> None: ...

    assert [cache_argument(model) for model in (Old(), New(), Around())] == ["past_key_values", "cache", "cache"]
