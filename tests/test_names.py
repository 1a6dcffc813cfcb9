"""Names, references and URLs: what passes stays as it is, and what passes can leave no root."""

from __future__ import annotations

import string
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import NameRefused
from softprompt.names import (
    BUCKET_SCHEMES,
    Ref,
    base_name,
    check_alias,
    check_digest,
    check_key_name,
    check_new_task,
    check_tag,
    check_tags,
    check_task,
    check_tenant,
    hide_password,
    parse_ref,
    split_store_url,
)

LETTERS = string.ascii_letters + string.digits
names = st.text(LETTERS + "._-", min_size=1, max_size=128).filter(lambda name: name[0] in LETTERS)
numbers = st.integers(1, 999_999_999)


@given(names)
def test_good_names_pass_unchanged(name: str) -> None:
    assert check_task(name) == check_tenant(name) == check_tag(name) == name
    if not name.isdigit():
        assert check_alias(name) == check_key_name(name) == name


@given(st.text())
def test_whatever_passes_is_one_harmless_path_component(name: str) -> None:
    message = ""
    try:
        check_task(name)
    except NameRefused as error:
        message = str(error)
    if message:
        assert message.isprintable(), "a message must not steer a terminal"
        return
    path = PurePosixPath("/root") / name
    assert path.parent == PurePosixPath("/root")
    assert name not in (".", "..")
    assert quote(name, safe="._-") == name, "it needs no escaping in a URL"


@given(st.text(st.sampled_from("a0.@/-_ \n\0é"), max_size=12))
def test_references_are_read_or_refused_and_written_back(text: str) -> None:
    try:
        ref = parse_ref(text)
    except NameRefused:
        return
    assert parse_ref(str(ref)) == ref


@given(names, numbers, names)
def test_references(task: str, number: int, alias: str) -> None:
    assert parse_ref(task) == Ref(task)
    assert parse_ref(f"{task}@{number}") == Ref(task, number=number)
    if not alias.isdigit():
        assert parse_ref(f"{task}@{alias}") == Ref(task, alias=alias)


def test_a_number_with_anything_behind_it_is_an_alias() -> None:
    assert parse_ref("task@3.") == Ref("task", alias="3.")


@pytest.mark.parametrize("text", ["", "@", "task@", "@3", "task@@3", "task@-1", "task@1e3 ", "task@٣", " task"])
def test_broken_references_are_refused(text: str) -> None:
    with pytest.raises(NameRefused):
        parse_ref(text)


@pytest.mark.parametrize("text", [None, 3, b"task"])
def test_what_is_no_text_is_refused(text: object) -> None:
    for check in (parse_ref, check_task, check_tag, check_digest):
        with pytest.raises(NameRefused):
            check(text)  # type: ignore[arg-type]


def test_an_alias_of_digits_is_refused_as_it_would_be_a_number() -> None:
    with pytest.raises(NameRefused, match="a version number; take a name like 'production'"):
        check_alias("3")


def test_tags_are_sorted_and_each_once() -> None:
    assert check_tags(["b", "a", "b", "lang=en"]) == ("a", "b", "lang=en")


@given(st.sampled_from(BUCKET_SCHEMES), st.text(st.sampled_from("ab./%2eE\\"), max_size=20))
def test_no_bucket_url_climbs(scheme: str, path: str) -> None:
    try:
        parts = split_store_url(f"{scheme}://bucket/{path}")
    except NameRefused:
        return
    from urllib.parse import unquote

    assert ".." not in unquote(parts.path).replace("\\", "/").split("/")


@given(st.text(), st.text(LETTERS, min_size=5, max_size=20))
def test_no_password_is_shown(user: str, password: str) -> None:
    secret = f"{password}secret"
    for url in (f"redis://{user}:{secret}@host:6379/0", f"redis://{quote(user)}@host/0?password={secret}"):
        assert secret not in hide_password(url)


def test_a_new_task_has_no_name_that_requests_have_another_meaning_for(tmp_path: Path, monkeypatch: Any) -> None:
    assert check_new_task("reviews", ["gpt2"]) == "reviews"
    assert check_new_task("autos") == "autos"
    for name, bases, message in (
        ("auto", [], "let their input choose the task; take another name"),
        ("gpt2", ["builtin/tiny", "gpt2"], "a base has that name"),
        ("a b", [], "is refused"),
    ):
        with pytest.raises(NameRefused, match=message):
            check_new_task(name, bases)
    (tmp_path / "models" / "reviews").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for source in ("models/reviews", "./models/reviews/", str(tmp_path / "models" / "reviews"), "/gone/since/reviews"):
        assert base_name(source) == "reviews"
    (tmp_path / "blob").write_bytes(b"")
    (tmp_path / "models" / "m@2.gguf").symlink_to(tmp_path / "blob")  # as in the hub's cache
    for source in ("models/m@2.gguf", "./models/m@2.gguf", str(tmp_path / "models" / "m@2.gguf"), "/gone/since/m@2.gguf"):
        assert base_name(source) == "m@2.gguf"
    assert base_name("~nobody-of-this-name/m") == "~nobody-of-this-name/m"
    assert [base_name(source) for source in ("gpt2", "gpt2@main", "a/b@v1", "builtin/tiny")] == [
        "gpt2", "gpt2", "a/b", "builtin/tiny",
    ]  # fmt: skip
