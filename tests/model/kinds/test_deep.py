"""Prefixes on encoders: what comes out is what the plain model makes of a row where keys and values are put before its own
by hand, layer by layer."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from softprompt.bases.architectures import HeadLabels, MaskedLabels
from softprompt.bases.base import FrozenBase
from softprompt.bases.head import pack
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import NO_PROMPT, ScoreJob, Scores, Vectors
from softprompt.errors import BaseModelError, EngineError
from softprompt.model.architecture import architecture_of
from softprompt.model.kinds.deep import DeepEncoder
from softprompt.model.kinds.encoder import MaskedEncoder
from softprompt.model.kinds.headed_encoder import HeadedEncoder
from softprompt.model.label_scores import label_contexts, score_labels
from softprompt.model.splice import stack_prompts
from softprompt.training.objectives import LABEL_SCORING, LabelTarget
from softprompt.training.steps.forward import Example, losses_and_gradient
from tests.engine_jobs import Inbox, score_offline, some_vectors
from tests.model.kinds.test_encoder import plain_scores as scores_behind_vectors
from tests.models import HEADED, MASKED, make_headed, make_masked

ROWS = [[5, 9, 31], [20], [7, 8, 12, 44, 15]]
LABELS = MaskedLabels(((6,), (7, 8), (9,)))
TAKES = ["bert", "roberta", "electra"]
TAKES_HEADED = [*TAKES, "bert classifier", "roberta classifier", "electra classifier"]


def prefixes_of(each: DeepEncoder, lengths: Sequence[int], seed: int = 3) -> list[torch.Tensor]:
    assert each.layout is not None
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, each.layout.width, generator=generator) * 0.7).to(each.base.dtype) for n in lengths]


class ByHand:
    """A plain model whose attention is written out, over keys and values that are put before each layer's own."""

    def __init__(self, base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base, self.layer, self.prefix_PW = base, 0, torch.zeros(0)
        self.before, self.heads = base.model.config._attn_implementation, base.model.config.num_attention_heads
        monkeypatch.setattr(base.model.config, "_attn_implementation", "eager")
        module = sys.modules[type(base.model.base_model).__module__]
        monkeypatch.setattr(module, "eager_attention_forward", self.attend)

    def attend(self, module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        """Of one row, nothing of which is padding."""
        layers, length = self.base.model.config.num_hidden_layers, len(self.prefix_PW)
        own = self.prefix_PW.view(length, layers, 2, self.heads, -1)[:, self.layer % layers].permute(1, 2, 0, 3)
        self.layer += 1
        key, value = torch.cat([own[0][None], key], 2), torch.cat([own[1][None], value], 2)
        shares = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return (shares @ value).transpose(1, 2), None

    def run(self, model: Any, prefix_PW: torch.Tensor, ids: Sequence[int]) -> Any:
        """The model's output for a framed row behind a prefix."""
        self.prefix_PW = prefix_PW
        first = getattr(self.base.model.base_model.embeddings, "padding_idx", None)
        offset = first + 1 if first else 0
        positions = torch.arange(len(prefix_PW), len(prefix_PW) + len(ids))[None] + offset
        return model(inputs_embeds=self.base.embed(torch.tensor(ids))[None], position_ids=positions)

    def scores(self, prefix_PW: torch.Tensor, row: Sequence[int], labels: MaskedLabels) -> torch.Tensor:
        """Of labels at masks behind a row, a pass for each."""
        mask, (before, behind), found = self.base.tokenizer.mask_token_id, self.base.frame, []
        for label in labels:
            ids = [*before, *row, *[mask] * len(label), *behind]
            logits = self.run(self.base.model, prefix_PW, ids).logits[0, len(before) + len(row) :][: len(label)]
            found.append(logits.log_softmax(-1).gather(1, torch.tensor(label)[:, None]).sum())
        return torch.stack(found)


@pytest.mark.parametrize("architecture", TAKES)
def test_masks_behind_prefixes_are_what_the_model_says_there_by_hand(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    each, which = MaskedEncoder(make_masked(architecture, dtype=torch.float64)), [2, 0, 1]
    prefixes, tails = prefixes_of(each, (4, 1, 6)), [label_contexts(LABELS)] * 3
    logits = each.logits_behind(stack_prompts(prefixes), None, which, ROWS, tails)
    by_hand = ByHand(each.base, monkeypatch)
    for scores, k, row in zip(score_labels(logits, [LABELS] * 3), which, ROWS, strict=True):
        torch.testing.assert_close(scores, by_hand.scores(prefixes[k], row, LABELS).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", TAKES_HEADED)
def test_heads_behind_prefixes_are_given_what_the_model_makes_of_rows_by_hand(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    each, which, counts = HeadedEncoder(make_headed(kind, dtype=torch.float64)), [2, 0, 1], (3, 20, 2)
    assert each.layout is not None
    generator, features, width = torch.Generator().manual_seed(1), each.head.features, each.layout.width
    heads = [(torch.randn(n, features, generator=generator), torch.randn(n, generator=generator)) for n in counts]
    prefixes = prefixes_of(each, (4, 1, 6))
    both = [torch.cat([one, pack(*head, width).to(one)]) for one, head in zip(prefixes, heads, strict=True)]
    labels = [HeadLabels.of(counts[k]) for k in which]
    logits = each.logits_behind(stack_prompts(both), None, which, ROWS, [label_contexts(own) for own in labels])
    by_hand, base = ByHand(each.base, monkeypatch), each.base
    seen: list[torch.Tensor] = []
    if each.head.pooling != "mean":
        layer = base.model.get_submodule(each.head.pooling)
        hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    for found_C, k, row in zip(logits, which, ROWS, strict=True):
        ids = [*base.frame[0], *row, *base.frame[1]]
        if each.head.pooling == "mean":
            seen.append(by_hand.run(base.model, prefixes[k], ids).last_hidden_state[0].mean(0))
        else:
            by_hand.run(base.model, prefixes[k], ids)
        weight_CF, bias_C = heads[k]
        torch.testing.assert_close(found_C[: counts[k]], weight_CF @ seen[-1].float() + bias_C, rtol=1e-5, atol=1e-5)
    if each.head.pooling != "mean":
        hook.remove()


def test_a_mixed_step_is_each_prefix_alone_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    each = MaskedEncoder(make_masked("roberta", dtype=torch.float64))
    prefixes = prefixes_of(each, (4, 2))
    examples = [Example(row % 2, ids, LABEL_SCORING, LabelTarget(LABELS, row), 0.5) for row, ids in enumerate(ROWS)]
    losses_K, gradient_KPW = losses_and_gradient(each, stack_prompts(prefixes), examples, token_budget=20)
    recomputed = losses_and_gradient(each, stack_prompts(prefixes), examples, recompute=True)[1]
    torch.testing.assert_close(recomputed, gradient_KPW, rtol=1e-4, atol=1e-6)
    by_hand = ByHand(each.base, monkeypatch)
    for number, prefix_PW in enumerate(prefixes):
        leaf, loss = prefix_PW.clone().requires_grad_(), torch.zeros(())
        for example in (e for e in examples if e.which == number):
            scores = by_hand.scores(leaf, example.input, LABELS)
            loss = loss - example.weight * scores.log_softmax(0)[example.target.choice]
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(losses_K[number], loss.detach().float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient_KPW[number, -len(leaf) :], expected.float(), rtol=1e-4, atol=1e-6)


def test_both_kinds_of_prompts_and_none_answer_in_one_batch_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_masked("bert")
    each = MaskedEncoder(base)
    soft, prefix = some_vectors(base, 4, 1), Vectors("prefix", prefixes_of(each, (5,))[0])
    prompts = [soft.on(base), prefix.on(base), NO_PROMPT.on(base)]
    which, rows = [1, 0, 2, 1, 0], [*ROWS, [31, 7], [6]]
    mixed = score_offline(base, prompts, which, rows, [LABELS] * 5)
    engine = ContinuousEngine(architecture_of(base))
    try:
        inboxes, kinds = [Inbox() for _ in which], (soft, prefix, NO_PROMPT)
        jobs = [ScoreJob(kinds[k], tuple(row), LABELS) for k, row in zip(which, rows, strict=True)]
        engine.submit_all(list(zip(jobs, inboxes, strict=True)))
        served = [inbox.last for inbox in inboxes]
    finally:
        engine.stop(drain=False)
    by_hand = ByHand(base, monkeypatch)
    expected = {at: by_hand.scores(prompts[1], rows[at], LABELS) for at, k in enumerate(which) if k == 1}
    monkeypatch.undo()
    expected |= {at: scores_behind_vectors(base, prompts[k], rows[at], LABELS) for at, k in enumerate(which) if k != 1}
    for at, (scores, live) in enumerate(zip(mixed, served, strict=True)):
        assert scores == pytest.approx(expected[at].tolist(), abs=1e-4)
        assert isinstance(live, Scores)
        assert live.values == pytest.approx(expected[at].tolist(), abs=1e-4)


def test_a_batch_invariant_one_answers_to_the_last_bit() -> None:
    each = MaskedEncoder(make_masked("bert", batch_invariant=True))
    prefixes, tails = prefixes_of(each, (4, 2)), [label_contexts(LABELS)] * 3
    mixed = each.logits_behind(stack_prompts(prefixes), None, [1, 0, 1], ROWS, tails)
    alone = each.logits_behind(stack_prompts([prefixes[0]]), None, [0], ROWS[1:2], tails[:1])
    assert torch.equal(mixed[len(alone) : 2 * len(alone)], alone)


@pytest.mark.parametrize("architecture", [name for name in MASKED if name not in TAKES])
def test_those_that_keep_no_keys_and_values_refuse_prefixes_by_name(architecture: str) -> None:
    each = MaskedEncoder(make_masked(architecture))
    assert each.layout is None
    with pytest.raises(BaseModelError, match=r"takes no prefix.* use a soft prompt"):
        each.logits_behind(stack_prompts([torch.zeros(2, 128)]), None, [0], ROWS[:1], [label_contexts(LABELS)])


def test_every_encoder_that_is_not_named_here_takes_none() -> None:
    assert {kind for kind in HEADED if HeadedEncoder(make_headed(kind)).layout is not None} == set(TAKES_HEADED)


def test_a_prefix_of_other_layers_is_refused_with_both() -> None:
    each = MaskedEncoder(make_masked("bert"))
    with pytest.raises(BaseModelError, match=r"96 numbers a virtual token was made for other layers: .* 2 layers of 4 x 8"):
        each.logits_behind(stack_prompts([torch.zeros(2, 96)]), None, [0], ROWS[:1], [label_contexts(LABELS)])
    engine = ContinuousEngine(architecture_of(each.base))
    try:
        with pytest.raises(EngineError, match=r"prefixes of 128 numbers a token \(2 layers of 4 x 8\)"):
            engine.submit(ScoreJob(Vectors("p", torch.zeros(2, 96)), (5,), LABELS), Inbox())
    finally:
        engine.stop(drain=False)


def without_positions(model: Any) -> None:
    model.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(torch.randn(2, 32))


def without_cache(model: Any) -> None:
    own = model.forward
    model.forward = lambda past_key_values=None, cache=None, **given: own(**given)


@pytest.mark.parametrize("spoil", [without_positions, without_cache])
def test_a_model_that_does_otherwise_takes_none(spoil: Any) -> None:
    base = make_masked("bert")
    other = FrozenBase.wrap(copy.deepcopy(base.model), base.tokenizer, name="other")
    assert MaskedEncoder(other).layout is not None
    spoil(other.model.base_model)
    assert MaskedEncoder(other).layout is None
