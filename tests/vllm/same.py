"""Whether two servers gave the same answer, but for rounding; and requests of all kinds, drawn by a seed."""

from __future__ import annotations

import random
from typing import Any

TOLERANCE = 1e-3
"""Of log-probabilities and probabilities; where two answers lie closer, which is the first is a tie."""
_OWN = {"id", "created"}
"""What no two answers have in common."""

WORDS = "the a red river film is great who wrote what a bad story of two brothers ? . , in 1999 that never ends".split()


def difference(one: Any, two: Any, at: str = "") -> str | None:
    """Where two answers differ, None where they do not: numbers by more than the tolerance, all else at all."""
    if isinstance(one, dict) and isinstance(two, dict):
        if one.keys() != two.keys():
            return f"{at}: {sorted(one)} and {sorted(two)}"
        found = (difference(one[name], two[name], f"{at}.{name}") for name in one if name not in _OWN)
        return next((reason for reason in found if reason), None)
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        found = (difference(*pair, f"{at}[{place}]") for place, pair in enumerate(zip(one, two, strict=True)))
        return next((reason for reason in found if reason), None)
    if isinstance(one, float) and isinstance(two, float | int):
        return None if abs(one - two) <= TOLERANCE else f"{at}: {one} and {two}"
    return None if one == two else f"{at}: {one!r} and {two!r}"


def smallest_gap(answer: dict[str, Any]) -> float:
    """How close the two best answers lie, anywhere in an answer that was asked for its log-probabilities."""
    gaps = []
    for row in answer.get("data", ()):
        best = sorted(row["scores"].values(), reverse=True)
        gaps.append(best[0] - best[1])
    for choice in answer.get("choices", ()):
        told = choice["logprobs"]
        tops = told["top_logprobs"] if "top_logprobs" in told else [
            {one["token"] + str(place): one["logprob"] for place, one in enumerate(token["top_logprobs"])}
            for token in told["content"]
        ]  # fmt: skip
        for top in tops:
            best = sorted(top.values(), reverse=True)
            gaps.append(best[0] - best[1] if len(best) > 1 else 0.0)
    return min(gaps, default=float("inf"))


def telling(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A request that asks for the two best tokens, too."""
    if path == "/v1/completions":
        return {**body, "logprobs": 2}
    return {**body, "logprobs": True, "top_logprobs": 2} if path == "/v1/chat/completions" else body


def draw(count: int, seed: int, base_name: str) -> list[tuple[str, dict[str, Any]]]:
    """Requests of all kinds, greedy: path and body."""
    chance = random.Random(seed)

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.choice([1, 3, 8, 20, 60])))

    generating = ["tell", "tell@1", "tell@2", "tell@3", "say", "say@1", base_name]
    scoring = ["kind", "kind@1", "kind@2", "kind@3", "kind@4", "many"]
    drawn: list[tuple[str, dict[str, Any]]] = []
    for _ in range(count):
        kind = chance.choices(["completion", "chat", "choice", "classify"], [5, 2, 1, 4])[0]
        if kind == "completion":
            body: dict[str, Any] = {
                "model": chance.choice([*generating, *scoring]), "prompt": text(), "max_tokens": chance.choice([1, 4, 16]),
            }  # fmt: skip
            if chance.random() < 0.2:
                body["prompt"] = [chance.randrange(300, 2000) for _ in range(chance.choice([1, 12, 40]))]
            elif chance.random() < 0.2:
                body["prompt"] = [text(), text()]
            if chance.random() < 0.3:
                body["stop"] = chance.choice([[" the"], [".", "a film"], ["\n"]])
            if chance.random() < 0.3:
                body["logprobs"] = chance.choice([0, 1, 3, 5])
            drawn.append(("/v1/completions", body))
        elif kind == "classify":
            inputs = [text() for _ in range(chance.choice([1, 1, 2, 5]))]
            drawn.append(("/v1/classify", {"model": chance.choice(scoring), "input": inputs}))
        else:
            model = chance.choice(generating[:-1] if kind == "chat" else scoring)
            drawn.append(("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text()}]}))
    return drawn
