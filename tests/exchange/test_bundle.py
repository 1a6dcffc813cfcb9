"""Bundles: one exact form, read without anything heavy, signed, in parts, and refused by name when a byte is another."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.errors import ConfigError, FingerprintMismatch, NotFound, PromptFileError
from softprompt.exchange.bundle import bundle, read_public_key, unbundle
from softprompt.exchange.bundle_reader import (
    MANIFEST,
    SIGNATURE,
    Bundle,
    manifest_bytes,
    read_archive,
    read_bundle,
    write_archive,
)
from softprompt.library.library import Library
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import Classifier, SoftPrompt
from tests.commands import Run
from tests.library_data import make_prompt

FINGERPRINT = "0123456789abcdef" * 2


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library.open(tmp_path / "home", actor="tester")
    for task in ("one", "two"):
        library.publish(make_prompt(task, 1, labels=("yes", "no")), base="builtin/tiny")
    return library


def key_file(folder: Path, name: str = "key.pem", password: bytes | None = None) -> Path:
    """A new private key; its public one lies beside it."""
    key = ed25519.Ed25519PrivateKey.generate()
    how = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    (folder / name).write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, how))
    public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"public-{name}").write_bytes(public)
    return folder / name


def prompt(task: str, vectors: torch.Tensor) -> SoftPrompt:
    rows, width = vectors.shape
    card = Card(task=task, base="b", fingerprint=FINGERPRINT, num_virtual_tokens=rows, token_dim=width, input="Say: {text}")
    return SoftPrompt(vectors, card)


# What it is


def test_it_holds_what_was_published_and_any_program_opens_it(library: Library, tmp_path: Path) -> None:
    done = bundle(library, ["two", "one@1"], tmp_path / "a.bundle")
    assert (done.tasks, done.unchanged, done.signer, done.energy) == (("one@1", "two@1"), (), None, "not measured")
    assert done.bytes == (tmp_path / "a.bundle").stat().st_size
    found = read_bundle(tmp_path / "a.bundle")
    assert {entry.task: found.blob(entry.task) for entry in found.entries} == {
        task: library.read(task) for task in ("one", "two")
    }
    assert dict(found.base) == {
        "name": "builtin/tiny", "fingerprint": FINGERPRINT, "revision": None, "adapter": None, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    assert (found.card("one")["labels"], found.since, found.missing) == (["yes", "no"], None, ())
    with zipfile.ZipFile(tmp_path / "a.bundle") as opened:
        assert opened.testzip() is None
        assert opened.namelist()[0] == MANIFEST
        assert json.loads(opened.read(MANIFEST))["energy"] == "not measured"
    with pytest.raises(PromptFileError, match="the bundle has no task 'three'; it has one, two"):
        found.card("three")


def test_the_same_versions_and_key_give_the_same_bytes(library: Library, tmp_path: Path) -> None:
    key = key_file(tmp_path)
    for name, refs in (("a", ["one", "two"]), ("b", ["two@1", "one@1"])):
        bundle(library, refs, tmp_path / name, key=key)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


READS = """
import sys
from softprompt.exchange.bundle_reader import read_bundle
found = read_bundle(sys.argv[1])
print(found.card("one")["labels"], found.vectors("one").values[0])
heavy = ("torch", "transformers", "sqlalchemy", "numpy", "pydantic", "safetensors", "cryptography", "socket")
print([name for name in heavy if name in sys.modules])
"""


def test_reading_needs_pythons_own_library_alone(library: Library, tmp_path: Path) -> None:
    bundle(library, ["one"], tmp_path / "a.bundle")
    done = subprocess.run([sys.executable, "-c", READS, tmp_path / "a.bundle"], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["['yes', 'no'] 1.401298464324817e-45", "[]"], done.stderr


def test_twelve_tasks_of_a_base_576_wide_are_under_500_kilobytes(tmp_path: Path) -> None:
    library, draw = Library.open(tmp_path / "home"), torch.Generator().manual_seed(0)
    recipe = {
        "learning_rate": 0.3,
        "max_steps": 800,
        "prompt_tuning_init": "VOCABULARY",
        "seed": 0,
        "left_out": "<|im_start|>",
    }
    for number in range(12):
        made = prompt(f"task{number:02}", torch.randn(20, 576, generator=draw))
        made = SoftPrompt(made.vectors_PD, made.card.model_copy(update={"recipe": recipe}), torch.randn(576, generator=draw))
        library.publish(made.to_bytes(), base="b")
    refs, sizes = [f"task{number:02}" for number in range(12)], {}
    for dtype in ("bfloat16", "int8"):
        sizes[dtype] = bundle(library, refs, tmp_path / "a", key=key_file(tmp_path), dtype=dtype).bytes  # type: ignore[arg-type]
    assert sizes["bfloat16"] < 350_000
    assert sizes["int8"] < 210_000


@settings(max_examples=25)
@given(st.sampled_from(["float32", "bfloat16", "float16", "int8"]), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_vectors_are_read_as_torch_reads_them(dtype: str, rows: int, width: int, seed: int) -> None:
    vectors = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    made = prompt("one", vectors).as_dtype(dtype)  # type: ignore[arg-type]
    blob = made.to_bytes()
    found = _bundle_of("one", blob)
    read = found.vectors("one")
    assert (read.rows, read.width) == (rows, width)
    assert torch.equal(torch.tensor(read.values).reshape(rows, width), made.vectors_PD)


def test_a_prefix_in_int8_has_a_scale_for_each_64_numbers() -> None:
    layers = ((2, 20, 20), (2, 20, 20))  # 160 numbers a token: two blocks of 64 and one of 32
    card = Card(
        task="one",
        base="b",
        fingerprint=FINGERPRINT,
        num_virtual_tokens=3,
        token_dim=160,
        prompt_type="prefix",
        layers=layers,
    )
    made = SoftPrompt(torch.randn(3, 160), card).as_dtype("int8")
    read = _bundle_of("one", made.to_bytes()).vectors("one")
    assert torch.equal(torch.tensor(read.values).reshape(3, 160), made.vectors_PD)


def test_a_prompt_with_a_head_comes_whole(tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    card = Card(
        task="one",
        base="b",
        fingerprint=FINGERPRINT,
        num_virtual_tokens=2,
        token_dim=4,
        task_type="SEQ_CLS",
        labels=("a", "b"),
    )
    head = Classifier(torch.randn(2, 4), torch.randn(2))
    data = SoftPrompt(torch.randn(2, 4), card, None, head).to_bytes()
    library.publish(data, base="b")
    library.publish(prompt("two", torch.randn(2, 4)).to_bytes(), base="b")
    bundle(library, ["one", "two"], tmp_path / "a")
    found = read_bundle(tmp_path / "a")
    assert found.blob("one") == data
    read = found.head("one")
    assert read is not None
    assert [(one.rows, one.width) for one in read] == [(2, 4), (1, 2)]
    assert torch.equal(torch.tensor(read[0].values).reshape(2, 4), head.weight_CF)
    assert torch.equal(torch.tensor(read[1].values), head.bias_C)
    assert found.head("two") is None


def _bundle_of(task: str, blob: bytes) -> Bundle:
    from softprompt.exchange.bundle_reader import Entry, manifest_bytes
    from softprompt.prompts.file import digest_of

    entry = Entry(task, 1, digest_of(blob), len(blob))
    manifest = {
        "kind": "softprompt bundle", "format": 1, "base": {"name": "b", "fingerprint": "f"}, "prompts": [vars(entry)],
        "since": None, "energy": "not measured",
    }  # fmt: skip
    return read_bundle(write_archive([(MANIFEST, manifest_bytes(manifest)), (f"prompts/{entry.digest}.safetensors", blob)]))


# In, again


def test_into_another_library_and_again(library: Library, tmp_path: Path) -> None:
    bundle(library, ["one", "two"], tmp_path / "a")
    warned: list[str] = []
    with Library.open(tmp_path / "other") as other:
        rows = unbundle(other, tmp_path / "a", tags=["edge"], warn=warned.append)
        assert [(row.task, row.version, row.bundled, row.added) for row in rows] == [
            ("one", 1, "one@1", True), ("two", 1, "two@1", True),
        ]  # fmt: skip
        assert other.read("one") == library.read("one")
        assert other.registry.resolve("two").tags == ("edge",)
        assert [row.added for row in unbundle(other, tmp_path / "a")] == [False, False]
        assert len(other.registry.versions("one")) == 1
        with pytest.raises(FingerprintMismatch, match="give the base it was tuned on"):
            unbundle(other, tmp_path / "a", base="builtin/tiny", tags=["late"])
        assert other.registry.resolve("one").tags == ("edge",)
        assert [row.added for row in unbundle(other, tmp_path / "a", tags=["late"])] == [False, False]
        assert other.registry.resolve("one").tags == other.registry.resolve("two").tags == ("edge", "late")
        other.publish(make_prompt("one", 5), base="builtin/tiny")
        with pytest.raises(FingerprintMismatch, match="give the base it was tuned on"):
            unbundle(other, tmp_path / "a", base="builtin/tiny")
    assert len(warned) == 1
    assert "is not signed: whoever could change it could have made it" in warned[0]


def test_a_delta_has_what_changed_and_needs_the_rest(library: Library, tmp_path: Path) -> None:
    key = key_file(tmp_path)
    bundle(library, ["one", "two"], tmp_path / "old", key=key)
    library.publish(make_prompt("two", 2), base="builtin/tiny")
    library.publish(make_prompt("three", 3), base="builtin/tiny")
    done = bundle(library, ["one", "two", "three"], tmp_path / "new", key=key, since=tmp_path / "old")
    assert (done.tasks, done.unchanged) == (("three@1", "two@2"), ("one@1",))
    digest = library.registry.resolve("one").digest
    with pytest.raises(
        PromptFileError, match=f"needs one@1 \\({digest}\\), which is not here; give the bundle that it follows"
    ):
        read_bundle(tmp_path / "new")
    old = read_bundle(tmp_path / "old")
    found = read_bundle(tmp_path / "new", former=[old])
    assert (found.since, found.blob("one"), found.blob("two")) == (old.digest, library.read("one"), library.read("two"))
    with Library.open(tmp_path / "other") as other:
        with pytest.raises(
            PromptFileError, match=f"needs one@1 \\({digest}\\), which the library has not; take in the bundle"
        ):
            unbundle(other, tmp_path / "new", key=key)
        assert other.registry.tasks() == []
        unbundle(other, tmp_path / "old", key=key)
        assert [row.added for row in unbundle(other, tmp_path / "new", key=key)] == [False, True, True]
        assert other.registry.resolve("two").number == 2
    again = bundle(library, ["one", "two", "three"], tmp_path / "none", key=key, since=tmp_path / "new")
    assert (again.tasks, len(again.unchanged)) == ((), 3)
    library.publish(make_prompt("far", 1, fingerprint="f" * 32), base="elsewhere")
    with pytest.raises(PromptFileError, match="leave --since out"):
        bundle(library, ["far"], tmp_path / "far", since=tmp_path / "old")


def test_what_cannot_be_bundled_is_refused(library: Library, tmp_path: Path) -> None:
    library.publish(make_prompt("one", 2), base="builtin/tiny")
    library.publish(make_prompt("far", 1, fingerprint="f" * 32), base="elsewhere")
    for refs, said in (
        ([], "a bundle of no task"),
        (["one@1", "one@2"], "one@1 and one@2 are of one task"),
        (["one", "far"], "a bundle is for one base: make one for each"),
    ):
        with pytest.raises(ConfigError, match=said):
            bundle(library, refs, tmp_path / "a")
    with pytest.raises(NotFound, match="no task 'none'"):
        bundle(library, ["none"], tmp_path / "a")
    assert not (tmp_path / "a").exists()


# Whose it is


def test_a_signature_is_checked_by_the_key_that_is_given(library: Library, tmp_path: Path) -> None:
    key, other = key_file(tmp_path), key_file(tmp_path, "other.pem")
    public = read_public_key(tmp_path / "public-key.pem")
    assert public == read_public_key(key)
    done = bundle(library, ["one"], tmp_path / "a", key=key)
    assert done.signer == public.hex()
    assert (read_bundle(tmp_path / "a", key=public).checked, read_bundle(tmp_path / "a").checked) == (True, False)
    with pytest.raises(PromptFileError, match=r"is signed by the key .*, and not by"):
        read_bundle(tmp_path / "a", key=read_public_key(other))
    bundle(library, ["one"], tmp_path / "b")
    with pytest.raises(PromptFileError, match="is not signed, and a key was given"):
        read_bundle(tmp_path / "b", key=public)
    with pytest.raises(PromptFileError, match="is not signed, and a key was given"):
        unbundle(library, tmp_path / "b", key=key)


def test_a_manifest_of_a_forger_is_not_signed_by_the_old_signature(library: Library, tmp_path: Path) -> None:
    key = key_file(tmp_path)
    bundle(library, ["one"], tmp_path / "a", key=key)
    bundle(library, ["two"], tmp_path / "b", key=key)
    ours, theirs = (read_archive((tmp_path / name).read_bytes()) for name in "ab")
    forged = write_archive([*({**theirs, SIGNATURE: ours[SIGNATURE]}).items()])
    assert read_bundle(forged).entries[0].task == "two"
    with pytest.raises(PromptFileError, match="is not that of its manifest: it was altered"):
        read_bundle(forged, key=read_public_key(key))


def test_keys_that_are_none_are_refused(library: Library, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a diary")
    other = rsa.generate_private_key(65537, 1024).private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()
    )
    (tmp_path / "rsa.pem").write_bytes(other)
    locked = key_file(tmp_path, "locked.pem", b"word")
    cases = (
        ("none", "cannot be read"),
        ("text", "is no PEM file"),
        ("rsa.pem", "is no key of Ed25519"),
        (locked.name, "locked"),
    )
    for name, said in cases:
        with pytest.raises(ConfigError, match=said):
            bundle(library, ["one"], tmp_path / "a", key=tmp_path / name)
        with pytest.raises(ConfigError, match=said):
            read_public_key(tmp_path / name)
    with pytest.raises(ConfigError, match="is no PEM file of a private key"):
        bundle(library, ["one"], tmp_path / "a", key=(key_file(tmp_path), tmp_path / "public-key.pem")[1])


# Altered


def test_no_byte_can_be_another_and_none_can_be_missing(library: Library, tmp_path: Path) -> None:
    key = key_file(tmp_path)
    bundle(library, ["one", "two"], tmp_path / "a", key=key)
    data, public, draw = (tmp_path / "a").read_bytes(), read_public_key(key), random.Random(0)
    for place in {*draw.sample(range(len(data)), 300), *range(60), *range(len(data) - 60, len(data))}:
        for other in (data[:place] + bytes([data[place] ^ draw.randrange(1, 256)]) + data[place + 1 :], data[:place]):
            with pytest.raises(PromptFileError, match="bundle"):
                read_bundle(other, key=public)
    for other in (data + b"x", b"x" + data, data + data, b""):
        with pytest.raises(PromptFileError, match="bundle"):
            read_bundle(other)


def zipped(*files: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as made:
        for name, data in files:
            made.writestr(name, data)
    return buffer.getvalue()


FOREIGN: dict[str, tuple[Callable[[], bytes], str]] = {
    "no zip": (lambda: b"\x80\x04pickled", "this is no bundle: it begins with"),
    "a bomb": (lambda: zipped((MANIFEST, b" " * 10_000_000), how=zipfile.ZIP_DEFLATED), "is packed, and files of a bundle"),
    "a path": (lambda: write_archive([("../../etc/passwd", b"")]), "holds '../../etc/passwd', which is no file of a bundle"),
    "another file": (lambda: write_archive([("prompts/x.pkl", b"")]), "holds 'prompts/x.pkl'"),
    "twice": (lambda: write_archive([(MANIFEST, b"{}"), (MANIFEST, b"{}")]), "holds 'manifest.json' twice"),
    "no manifest": (lambda: write_archive([(SIGNATURE, b"{}")]), "it has no manifest.json"),
    "nothing said": (lambda: write_archive([(MANIFEST, b"{}")]), "its manifest does not say so"),
    "no json": (lambda: write_archive([(MANIFEST, b"[" * 100_000)]), "manifest.json is not as it is written"),
    "newer": (
        lambda: write_archive([(MANIFEST, b'{"format":2,"kind":"softprompt bundle"}')]),
        "has format 2, and this softprompt reads up to 1",
    ),
    "no prompts": (
        lambda: write_archive([(MANIFEST, b'{"format":1,"kind":"softprompt bundle","prompts":[5]}')]),
        "its manifest names no prompts in order",
    ),
    "other bytes": (lambda: _bundle_with(b"other"), "has other bytes than its name says"),
}


def _bundle_with(blob: bytes) -> bytes:
    name = f"prompts/{'0' * 64}.safetensors"
    entry = {"task": "a", "version": 1, "digest": "0" * 64, "bytes": len(blob)}
    said = {"kind": "softprompt bundle", "format": 1, "base": {"name": "b", "fingerprint": "f"}, "prompts": [entry]}
    text = json.dumps({**said, "since": None}, sort_keys=True, separators=(",", ":")).encode()
    return write_archive([(MANIFEST, text), (name, blob)])


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_bundle_is_refused_by_name(what: str) -> None:
    make, said = FOREIGN[what]
    with pytest.raises(PromptFileError) as caught:
        read_bundle(make())
    assert said in str(caught.value)


def test_a_header_that_claims_more_than_there_is_reads_nothing(tmp_path: Path) -> None:
    data = bytearray(write_archive([(MANIFEST, b"{}")]))
    data[18:26] = (0xFFFFFFF0).to_bytes(4, "little") * 2
    with pytest.raises(PromptFileError, match="is cut short"):
        read_bundle(bytes(data))
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(PromptFileError, match="has 2147483648 bytes, and a bundle at most 1073741824"):
        read_bundle(tmp_path / "large")


def _prompt(shape: list[int], dtype: str, data: bytes, card: object, **more: object) -> bytes:
    first = {"prompt_embeddings": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}, **more}
    header = json.dumps({"__metadata__": {"softprompt": json.dumps({"card": card})}} | first).encode()
    return len(header).to_bytes(8, "little") + header + data


SCALE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "blob",
    [
        _prompt([2, 3], "F16", b"ab", {}),
        _prompt([2, 3], "F32", b"abc", {}),
        _prompt([2, 3], "F32", b"abcd", {}),
        _prompt([2], "F32", b"abcdefgh", {}),
        _prompt([-1, -2], "F32", b"abcdefgh", {}),
        _prompt([2, 3], "I8", b"abcdef", {}),
        _prompt([2, 0], "I8", b"abcd", {}, scale=SCALE),
        _prompt([2, 3], "I8", b"abcdef", {}, scale=SCALE),
        _prompt([1, 1], "I8", b"abcd", [], scale=SCALE),
        _prompt([1, 1], "I8", b"abcd", {}, scale={"dtype": "F32"}),
        b"\2\0\0\0\0\0\0\0[]",
    ],
)
def test_a_prompt_that_is_not_as_it_says_is_refused(blob: bytes) -> None:
    """Its digest is right: whoever made the bundle made it so."""
    digest = hashlib.sha256(blob).hexdigest()
    manifest = {
        "kind": "softprompt bundle", "format": 1, "base": {"name": "b", "fingerprint": "f"}, "since": None,
        "prompts": [{"task": "t", "version": 1, "digest": digest, "bytes": len(blob)}],
    }  # fmt: skip
    found = read_bundle(write_archive([(MANIFEST, manifest_bytes(manifest)), (f"prompts/{digest}.safetensors", blob)]))
    with pytest.raises(PromptFileError, match="take it again"):
        found.vectors("t")


def test_an_archive_of_more_files_than_one_can_count_is_refused() -> None:
    one = write_archive([(f"prompts/{'0' * 64}.safetensors", b"")])[: 30 + len(f"prompts/{'0' * 64}.safetensors")]
    many = b"".join(one.replace(b"0" * 64, b"%064x" % number) for number in range(65536))
    with pytest.raises(PromptFileError, match="more than 65535 files"):
        read_archive(many)


@given(
    st.dictionaries(st.sampled_from([MANIFEST, SIGNATURE, *(f"prompts/{c * 64}.safetensors" for c in "abc")]), st.binary())
)
def test_an_archive_comes_back_and_is_a_zip_file(files: dict[str, bytes]) -> None:
    ordered = sorted(files.items(), key=lambda item: (item[0] != MANIFEST, item[0] != SIGNATURE, item[0]))
    data = write_archive(ordered)
    if files:
        assert read_archive(data) == files
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == files
        assert all(zlib.crc32(files[info.filename]) == info.CRC for info in opened.infolist())


# The commands


def test_the_commands(run: Run, home: Path, tmp_path: Path) -> None:
    with Library.open(home) as library:
        library.publish(make_prompt("one", 1), base="builtin/tiny")
    key = key_file(tmp_path)
    (row,) = run("bundle", tmp_path / "a", "one", "--key", key, "--json").rows
    assert (row["tasks"], row["energy"], row["bytes"]) == (["one@1"], "not measured", os.path.getsize(tmp_path / "a"))
    public = tmp_path / "public-key.pem"
    (row,) = run("--home", tmp_path / "new", "unbundle", tmp_path / "a", "--key", public, "--tag", "x", "--json").rows
    assert (row["task"], row["version"], row["bundled"], row["added"]) == ("one", 1, "one@1", True)
    done = run("unbundle", tmp_path / "a")
    assert "which was not checked" in done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "the bundle is not signed; sign it with --key FILE" in run("bundle", tmp_path / "b", "one").err
    assert "is not signed, and a key was given" in run("unbundle", tmp_path / "b", "--key", public).refused()
    assert "cannot be read" in run("unbundle", tmp_path / "none").refused()
    assert "a bundle is taken in by `softprompt unbundle`" in run("import", tmp_path / "a").refused()
