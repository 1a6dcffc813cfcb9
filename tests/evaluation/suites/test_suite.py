"""The file of a suite: each wrong key and value refused by name, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softprompt.errors import ConfigError, DataError
from softprompt.evaluation.suites.suite import Suite, parse_suite


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"metric": "f1"}, "unknown key 'metric'; did you mean 'metrics'?"),
        ({"metrics": ["acuracy"]}, "metrics.0: input should be 'accuracy', .*; the file says 'acuracy'"),
        ({"perturb": ["typo"]}, "perturb.0: input should be 'case', 'typos', .*; the file says 'typo'"),
        ({"perturb": ["case", "case"]}, "perturb: 'case' is given twice; leave one out"),
        ({"swap": [["he"]]}, r"swap: a group has 2 to 20 words, and \['he'\] has 1; mend it"),
        ({"swap": [["he", "He"]]}, "swap: the group .* has a word twice"),
        ({"swap": [["he", " she"]]}, "blanks around one; mend it"),
        ({"swap": ["he", "she"]}, "swap.0: input should be a valid tuple"),
        ({"swap": [["no", False]]}, "swap.0.1: input should be a valid string; the file says False"),
        ({"slices": [{}]}, "slices.0: a slice has neither column, length nor pattern; give one of them"),
        ({"slices": [{"column": "a", "length": [0, 3]}]}, "slices.0: a slice has column and length; give one of them"),
        ({"slices": [{"colum": "a"}]}, r"unknown key 'slices.0.colum'; did you mean 'column'\?"),
        ({"slices": [{"length": [5, 2]}]}, "length: nothing is as long as 5 and shorter than 2; write such as"),
        ({"slices": [{"length": [0, True]}]}, "a length is a number of characters"),
        ({"slices": [{"length": [0, 3], "value": 1}]}, "value: it is the value of a `column`; name that"),
        ({"slices": [{"pattern": "/(/"}]}, "pattern: '/[(]/' is no regular expression .*; mend it"),
        ({"must": ["/(/"]}, "must: '/[(]/' is no regular expression"),
        ({"must_not": " "}, "must_not: the pattern ' ' is blank"),
        ({"must": "a", "must_not": "a"}, "must: 'a' is a pattern that must come and must not"),
        ({"tolerance": -1}, "tolerance: input should be greater than or equal to 0; the file says -1"),
        ({"tolerance": float("inf")}, "tolerance: input should be a finite number"),
        ({"confidence": 0}, "confidence: input should be greater than 0"),
        ({"calibration": True}, "calibration: no truth value is meant here"),
        ({"calibration": 1}, "calibration: input should be greater than or equal to 2"),
        ({"rejected": "worse"}, "rejected: only the metric `preference` reads it"),
        ({"name": "a b"}, "name: suite 'a b' is refused; use letters"),
        ({"tolerance": "much", "perturbs": 1}, r"has 2 faults: \(1\) .* \(2\) "),
    ],
)
def test_what_is_wrong_is_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        parse_suite({"name": "s", **given}, where="s.yaml")
    assert str(refused.value).startswith("s.yaml")


def test_one_stands_for_a_list_of_one() -> None:
    config = parse_suite({"name": "s", "metrics": "f1", "must": "please", "perturb": "case", "slices": "lang"}, where="s")
    assert (config.metrics, config.must, config.perturb) == (("f1",), ("please",), ("case",))
    assert [one.column for one in config.slices] == ["lang"]


def test_a_file_has_its_rows_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "polite.yaml"
    file.write_text("data: rows.jsonl\ntolerance: 0.1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no data file 'rows\.jsonl'"):
        Suite.load(file)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    suite = Suite.load(file)
    assert (suite.name, suite.address, suite.config.tolerance) == ("polite", str(tmp_path / "rows.jsonl"), 0.1)
    assert Suite.of_definition(suite.definition()) == Suite(
        suite.config.model_copy(update={"data": suite.address}), suite.file, suite.address
    )
    with pytest.raises(ConfigError, match="cannot be read"):
        Suite.load(tmp_path / "none.yaml")


def test_the_digest_is_of_checks_and_rows(tmp_path: Path) -> None:
    def digest(rows: str = "ab", metrics: str = "f1", **given: Any) -> str:
        suite = Suite(parse_suite({"name": "s", **given}, where="s"), None, None)
        return suite.digest([metrics], [*rows])

    same = digest()
    assert same == digest(name="t", tolerance=0.5, confidence=0.5, keep_answers=False)
    others = [
        digest("ba"),
        digest("abc"),
        digest(metrics="accuracy"),
        digest(must="x"),
        digest(perturb="case"),
        digest(seed=1),
    ]
    assert len({same, *others}) == 7
