"""Passages: how texts are cut, in which order they are found, and how rows get them."""

import math
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import ConfigError, DataError
from softprompt.tasks.form import Form
from softprompt.tasks.retrieve import Index, passages_of, read_folder
from softprompt.tasks.task import Task
from softprompt.text import words_of

ROWS = [
    {"question": f"Where does {name} live, asked {turn}?", "answer": answer}
    for turn in range(20)
    for name, answer in (("Rex", "red house"), ("Mia", "blue house"), ("Zed", ""))
]
FORM = {"task": "where", "data": ROWS, "input": "{passages}\n{question}\nAnswer:", "target": " {answer}"}


def slow_passages(text: str, words: int, overlap: int) -> list[str]:
    left, made = text.split(), []
    while left:
        made.append(" ".join(left[:words]))
        if len(left) <= words:
            break
        left = left[words - overlap :]
    return made


def slow_ranking(passages: list[str], query: str) -> list[tuple[float, str]]:
    counts = [Counter(re.findall(r"\w+", passage.lower())) for passage in passages]
    held = Counter(word for count in counts for word in count)
    rarity = {word: math.log((1 + len(passages)) / (1 + number)) + 1 for word, number in held.items()}

    def unit(count: Counter) -> dict[str, float]:
        weights = {word: number * rarity[word] for word, number in count.items() if word in rarity}
        length = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
        return {word: weight / length for word, weight in weights.items()}

    asked = unit(Counter(re.findall(r"\w+", query.lower())))
    scores = [sum(weight * asked.get(word, 0) for word, weight in unit(count).items()) for count in counts]
    ranked = sorted(range(len(passages)), key=lambda place: (-round(scores[place], 9), place))
    return [(scores[place], passages[place]) for place in ranked if scores[place] > 1e-9]


@given(st.lists(st.sampled_from(["a", "b", "c\n", "d"])), st.integers(1, 6), st.data())
def test_texts_are_cut_as_by_hand(words, size, data):
    text, overlap = " ".join(words), data.draw(st.integers(0, size - 1))
    assert passages_of(text, size, overlap) == slow_passages(text, size, overlap)


@given(
    st.lists(
        st.lists(st.sampled_from("red blue Cat dog x house".split()), min_size=1).map(" ".join), min_size=1, max_size=8
    ),
    st.lists(st.sampled_from("red blue cat DOG never x".split()), max_size=4).map(" ".join),
)
def test_passages_are_ranked_as_by_hand(texts, query):
    index = Index({str(place): text for place, text in enumerate(texts)}, 100, 0)
    found, expected = index(query, 3), slow_ranking(texts, query)
    assert len(found) == min(3, len(expected))
    scores = {passage: score for score, passage in expected}  # rounding may exchange what is equal but for the last bits
    assert [scores[one] for one in found] == pytest.approx([score for score, _ in expected[:3]], abs=1e-8)


def test_words_of_hindi_are_whole_and_characters_of_chinese_and_japanese_are_words():
    """Vowels of Hindi are marks on letters; Chinese and Japanese have no spaces."""
    ki, kaa = "\u0915\u093f", "\u0915\u093e"
    assert Index({"a": ki, "b": kaa}, 100, 0)(kaa, 2) == [kaa]
    index = Index({"a": "猫は赤い家に住んでいる。", "b": "犬は青い家に住んでいる。", "c": "Rex lives there"}, 100, 0)
    assert index("青い犬はどこ？", 1) == ["犬は青い家に住んでいる。"]
    assert index("lives", 3) == ["Rex lives there"]
    assert passages_of("猫は red家 にいる", 3) == ["猫は red", "家 にい", "る"]
    assert passages_of("猫は red家 にいる", 3, 1) == ["猫は red", "red家 に", "にいる"]


@given(st.text(st.sampled_from("a 猫家か\n")), st.integers(1, 6))
def test_no_text_is_lost_between_passages(text, size):
    whole = " ".join(passages_of(text, size))
    assert whole.replace(" ", "") == "".join(text.split())
    assert all(len(words_of(one)) <= size for one in passages_of(text, size))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("Rex lives in the red house.\nHe eats fish.")
    (tmp_path / "texts" / "b.md").write_text("Mia lives in the blue house.")
    return tmp_path / "texts"


def test_rows_get_passages_from_a_folder_and_its_digest_is_kept(folder):
    task = Task(**FORM, no_answer="unknown", retrieve={"folder": "texts", "k": 1}, folder=folder.parent)
    row = next(row for row in task.train if "Rex" in row["question"])
    assert row["passages"] == "Rex lives in the red house. He eats fish."
    kept = task.form.found()["retrieve"]
    (folder / "b.md").write_text("Mia lives in the green house.")
    other = Task(**FORM, no_answer="unknown", retrieve={"folder": "texts", "k": 1}, folder=folder.parent)
    assert kept["digest"] != other.form.found()["retrieve"]["digest"]
    assert str(folder) not in str(kept)
    assert [row["question"] for row in task.train] == [row["question"] for row in other.train]  # no row has moved
    assert {task.form.answer(row, "a row") for row in ROWS} == {"red house", "blue house", "unknown"}


def test_a_function_finds_and_a_row_may_bring_its_own():
    task = Task(**FORM, no_answer="unknown", retriever=lambda query, k: [query.upper(), "two\nlines", "3", "4"][: k + 1])
    form = task.form
    assert form.with_passages(form.row_of("hi")) == {"question": "hi", "passages": "HI\ntwo lines\n3"}
    assert form.with_passages(form.row_of('{"question": "hi", "passages": ["p", "q"]}'))["passages"] == "p\nq"
    assert form.row_of('{"question": "hi"}') == {"question": '{"question": "hi"}'}  # a text as any other
    wrong = Task(**FORM, no_answer="unknown", retriever=lambda query, k: "one text").form
    with pytest.raises(DataError, match="a list of texts is needed"):
        wrong.with_passages({"question": "hi"})
    broken = Task(**FORM, no_answer="unknown", retriever=lambda query, k: [][0]).form
    with pytest.raises(DataError, match="fails at 'hi': IndexError"):
        broken.with_passages({"question": "hi"})


def test_a_function_in_a_file_finds(tmp_path):
    (tmp_path / "find.py").write_text("def find(query, k):\n    return [query.upper()]\n")
    task = Task(**FORM, no_answer="unknown", retrieve={"function": "find.py:find"}, folder=tmp_path)
    assert task.train[0]["passages"] == task.train[0]["question"].upper()
    assert task.form.found()["retrieve"] == {"query": "{question}", "k": 3, "function": "find.py:find"}
    assert task.variant(seed=3).form.retriever is task.form.retriever


def test_a_column_of_passages_is_one_as_any_other():
    task = Task(**FORM | {"data": [row | {"passages": "mine"} for row in ROWS]}, no_answer="unknown")
    assert task.form.retriever is None
    assert task.form.input.fields == ["passages", "question"]
    assert isinstance(task.form, Form)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input": "{question}", "retrieve": {"folder": "texts"}}, "has no {passages}"),
        ({}, "`retrieve` would fill it"),
        ({"retrieve": {}}, "none of them is given"),
        ({"retrieve": {"folder": "nowhere"}}, "there is no folder"),
        ({"retrieve": {"folder": "texts", "query": "all"}}, "names no column"),
        ({"retrieve": {"folder": "texts", "words": 5, "overlap": 5}}, "longer passages"),
        ({"retrieve": {"function": "nowhere.py:find"}}, "there is no file"),
        ({"retrieve": {"function": "texts"}}, "write FILE.py:NAME"),
        ({"no_answer": " "}, "no_answer: this is blank"),
        ({"labels": ["red house", "blue house"], "no_answer": "unknown"}, "not among `labels`"),
    ],
)
def test_what_cannot_be_is_told(folder, changes, told):
    with pytest.raises((ConfigError, DataError), match=re.escape(told)):
        Task(**{"no_answer": "unknown"} | FORM | changes, folder=folder.parent).train  # noqa: B018


def test_a_folder_without_texts_and_a_file_that_is_none_are_told(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no text"):
        read_folder(tmp_path / "empty")
    (folder / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is no UTF-8 text"):
        read_folder(folder)
    (folder / "c.txt").rename(folder / "c.pdf")
    with pytest.raises(ConfigError, match="is no text"):
        read_folder(folder)
