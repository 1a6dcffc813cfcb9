"""Answers that must be of a schema: each token is the best of those that the grammar allows, whatever runs beside it."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import jsonschema
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer

from softprompt.bases.base import FrozenBase
from softprompt.bases.grammar import ANY_OBJECT, Grammar, schema_text
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import GenerateJob, Sampling, Vectors
from softprompt.engines.scheduler import Limits
from softprompt.errors import ConfigError
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import stack_prompts
from tests.engine_jobs import Inbox, generate_offline, some_vectors
from tests.models import WORDS, make_base, make_seq2seq, tokenizer

TIE = 1e-4
SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {"b": {"type": "integer"}, "a": {"type": "string", "maxLength": 5}},
        "required": ["b", "a"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
    {"type": "number"},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": {"x": [1, 2]}}]},
]


def compiled(base: FrozenBase, schema: dict[str, Any]) -> Grammar:
    return base.grammars.compile(schema_text(schema, "the schema"))


@functools.cache
def library_tokenizer(text: str, end_ids: frozenset[int]) -> LLTokenizer:
    return LLTokenizer(text, eos_token=sorted(end_ids))


def known_ends(base: FrozenBase) -> frozenset[int]:
    return frozenset(token for token in base.end_ids if token < len(base.embedding.weight))


class Twin:
    """The same grammar, by the library alone: all tokens so far taken anew for each."""

    def __init__(self, base: FrozenBase, schema: dict[str, Any]) -> None:
        known = library_tokenizer(base.tokenizer.backend_tokenizer.to_str(), known_ends(base))
        blanks = {"whitespace_flexible": False, "key_separator": ": ?", "item_separator": ", ?"}
        text = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=blanks)
        self.empty, self.end_ids, self.so_far = LLMatcher(known, text), known_ends(base), list[int]()

    def now(self) -> LLMatcher:
        matcher = self.empty.deep_copy()
        assert matcher.consume_tokens(self.so_far)
        return matcher

    def allowed(self) -> list[int]:
        bias, matcher = self.now().compute_logit_bias(), self.now()
        allowed = {token for token, value in enumerate(bias) if value}
        spelled = {token for token in range(len(bias)) if matcher.validate_tokens([token]) == 1}
        ends = self.end_ids if matcher.is_accepting() else set()
        assert allowed - self.end_ids <= spelled
        # Where text is forced it is written in its usual tokens, and not in others that spell it, too.
        assert allowed - self.end_ids == spelled - self.end_ids or matcher.compute_ff_bytes()
        return sorted(allowed - self.end_ids | ends)


@torch.no_grad()
def check_alone(base: FrozenBase, prompt: Vectors, ids: tuple[int, ...], answer: list[int], schema: dict[str, Any]) -> None:
    """Each token of an answer is the best of those allowed, by the row alone and nothing kept from token to token."""
    twin = Twin(base, schema)
    stack = stack_prompts([prompt.on(base)])
    logits_LV = architecture_of(base).logits_behind(stack, None, [0], [ids], [[answer[:-1]]]).float()
    for logits_V, token in zip(logits_LV, answer, strict=True):
        allowed = twin.allowed()
        assert token in allowed
        assert logits_V[token] >= logits_V[allowed].max() - TIE
        twin.so_far.append(token)


def whole_text(base: FrozenBase, answer: list[int]) -> str:
    return base.decode([token for token in answer if token not in base.end_ids])


BASES = {
    "llama": lambda: make_base("llama"),
    "gpt2": lambda: make_base("gpt2", seed=3),
    "bart": lambda: make_seq2seq("bart"),
    "invariant": lambda: FrozenBase.wrap(make_base("llama").model, tokenizer(), name="x", batch_invariant=True),
    "tiny": lambda: FrozenBase.load("builtin/tiny"),
}


@pytest.mark.parametrize("kind", BASES)
def test_each_token_is_the_best_of_those_allowed(kind: str) -> None:
    """In both engines, in one batch with rows that are held to nothing."""
    base = BASES[kind]()
    draw = random.Random(kind)
    prompts = [some_vectors(base, rows, seed) for seed, rows in enumerate([0, 3, 6])]
    rows: list[tuple[Vectors, tuple[int, ...], dict[str, Any] | None]] = []
    for schema in [*SCHEMAS, None, SCHEMAS[0], None]:
        ids = tuple(base.encode([" ".join(draw.choices(WORDS, k=draw.randrange(1, 6)))])[0])
        rows.append((draw.choice(prompts), ids, schema))
    most = 30 if kind == "tiny" else 24
    grammars = [None if schema is None else compiled(base, schema) for _, _, schema in rows]
    vectors = [torch.zeros(0, base.width) if one.vectors_PD is None else one.vectors_PD for one in prompts]
    which = [prompts.index(prompt) for prompt, _, _ in rows]
    inputs = [ids for _, ids, _ in rows]
    offline = generate_offline(base, vectors, which, inputs, [most] * len(rows), grammars=grammars)
    free = [number for number, (_, _, schema) in enumerate(rows) if schema is None]
    alone = generate_offline(base, vectors, [which[n] for n in free], [inputs[n] for n in free], [most] * len(free))
    assert [offline[number] for number in free] == alone

    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=5))
    inboxes = [Inbox() for _ in rows]
    for (prompt, ids, _), grammar, inbox in zip(rows, grammars, inboxes, strict=True):
        engine.submit(GenerateJob(prompt, ids, Sampling(max_tokens=most, logprobs=0, grammar=grammar)), inbox)
    whole = 0
    for (prompt, ids, schema), grammar, said, inbox in zip(rows, grammars, offline, inboxes, strict=True):
        served = inbox.tokens
        assert [token for token in served if token not in base.end_ids] == said
        if schema is None or grammar is None:
            continue
        check_alone(base, prompt, ids, served, schema)
        if inbox.pieces[-1].finish == "stop":
            whole += 1
            assert inbox.text == whole_text(base, served)
            jsonschema.validate(json.loads(inbox.text), schema)
            assert grammar.accepts(said)
    assert whole >= 2
    engine.stop()


def test_what_is_drawn_is_allowed_too() -> None:
    base = make_base("llama")
    grammar, schema = compiled(base, SCHEMAS[0]), SCHEMAS[0]
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=4))
    texts = []
    for seed in range(6):
        how = {"temperature": 1.5, "seed": seed, "top_p": 0.9 if seed % 2 else 1.0, "top_k": 7 if seed > 3 else 0}
        inbox = Inbox()
        job = GenerateJob(some_vectors(base, 2, 1), (5, 9), Sampling(max_tokens=60, logprobs=2, grammar=grammar, **how))
        engine.submit(job, inbox)
        twin = Twin(base, schema)
        for token in inbox.tokens:
            assert token in twin.allowed()
            twin.so_far.append(token)
        texts.append(inbox.text)
        # Probabilities are the base's own: what may not come can still be the likeliest.
        assert all(token.logprob < 0 for piece in inbox.pieces for token in piece.tokens)
        if inbox.pieces[-1].finish == "stop":
            assert list(json.loads(inbox.text)) == ["b", "a"]  # keys in the schema's order, not in the alphabet's
    assert len(set(texts)) > 1
    engine.stop()


def test_an_answer_ends_with_its_last_brace() -> None:
    """Without an end token's step, and as a whole one also where it is the last that may come."""
    base = make_base("llama")
    grammar = compiled(base, {"const": [1]})
    (answer,) = generate_offline(base, [torch.zeros(0, base.width)], [0], [(7,)], [40], grammars=[grammar])
    engine = ContinuousEngine(architecture_of(base))
    inbox = Inbox()
    engine.submit(GenerateJob(some_vectors(base, 0, 0), (7,), Sampling(max_tokens=len(answer), grammar=grammar)), inbox)
    assert json.loads(inbox.text) == [1]
    assert (inbox.pieces[-1].finish, inbox.pieces[-1].count) == ("stop", len(answer))
    engine.stop()


def test_what_stands_before_json() -> None:
    base = make_base("llama")
    text = schema_text({"const": 1}, "x")
    spaced, bare = base.grammars.compile(text, before=" "), base.grammars.compile(text)
    assert spaced is base.grammars.compile(text, before=" ")
    for said, first, second in ((" 1", None, 0), ("1", 0, None), ("  1", 1, 0)):
        ids = base.encode([said])[0]
        assert (spaced.fault(ids) is None, bare.fault(ids) is None) == (first is None, second is None)
    assert bare.fault([]) == 0
    assert bare.fault(base.encode(["12"])[0]) is not None


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "objec"}, "Invalid type: objec"),
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"$ref": "http://example.org/x"}, "not present in a registry"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, "Unsatisfiable"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not supported"),
        ("[1]", "which is an object"),
        ("{", "is no JSON"),
    ],
)
def test_what_cannot_be_compiled_is_refused_by_name(schema: Any, why: str) -> None:
    with pytest.raises(ConfigError, match="output_schema") as caught:
        schema_text(schema, "output_schema")
    assert why in str(caught.value)
    assert "start:" not in str(caught.value)


def test_a_schema_of_a_hundred_thousand_levels_is_refused() -> None:
    with pytest.raises(ConfigError, match="recursion"):
        schema_text('{"items":' * 100_000 + "{}" + "}" * 100_000, "output_schema")


def test_a_tokenizer_that_cannot_be_read_is_refused() -> None:
    from tests.models import make_masked

    with pytest.raises(ConfigError, match="no schema can be compiled for the tokenizer of random/bert"):
        make_masked("bert").grammars.compile(ANY_OBJECT)


@pytest.mark.parametrize(
    ("text", "whole"),
    [('{"a":1,"b":[2,3]}', True), ('{"a": 1, "b": [2, 3]}', True), ('{"a":  1,"b":[]}', False), ('{ "a":1,"b":[]}', False),
     ('{"a" :1,"b":[]}', False), ('{"a":1,"b":[2 ,3]}', False), ('{"a":1,\n"b":[]}', False)],
)  # fmt: skip
def test_a_blank_stands_behind_a_colon_or_a_comma_once(text: str, whole: bool) -> None:
    base = make_base("llama")
    numbers = {"type": "array", "items": {"type": "integer"}}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": numbers}, "required": ["a", "b"]}
    assert compiled(base, schema).accepts(base.encode([text])[0]) == whole
