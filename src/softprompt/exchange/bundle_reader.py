"""Reading a bundle: a set of tasks' prompts and what base they are for, in one archive. For devices at the edge: nothing but
Python's own library is needed, and no network; to check a signature, the package `cryptography`.

A bundle is a ZIP file of stored entries in one exact form: `manifest.json`, `signature.json` where it is signed, and prompt
files by their digests. The signature is Ed25519's over the manifest, which has the digest of each prompt file. A reader
makes the archive again from what is in it, so that no byte of it can be another.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompt.errors import PromptFileError

FORMAT = 1
MANIFEST, SIGNATURE = "manifest.json", "signature.json"
SIGNED = b"softprompt bundle\n"
"""Stands before the manifest in what is signed, so that a signature of something else is none of a bundle."""

MOST_BYTES = 1 << 30
MOST_FILES = 0xFFFF
"""As many as the index of an archive can count."""

_PROMPT = re.compile(r"prompts/([0-9a-f]{64})\.safetensors", re.ASCII)
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_JANUARY_1980 = 0x21
_FILE = 0o100644 << 16
_AGAIN = "take it again from where it came from"


@dataclass(frozen=True)
class Entry:
    """A prompt that a bundle is about, in it or not."""

    task: str
    version: int
    """Its number where the bundle was made."""
    digest: str
    bytes: int

    @property
    def ref(self) -> str:
        """What it was called there: `task@3`."""
        return f"{self.task}@{self.version}"


@dataclass(frozen=True)
class Vectors:
    """The numbers of a prompt, widened to 32-bit floats: `values[row * width + column]`."""

    rows: int
    width: int
    values: array[float]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read, every byte of it checked."""

    base: Mapping[str, Any]
    """`name`, `fingerprint`, `revision` and `adapter` of the base that all prompts are for."""
    entries: tuple[Entry, ...]
    """All prompts, by task; a delta has the bytes of some of them alone."""
    since: str | None
    """Of a delta the digest of the manifest of the bundle that has the others."""
    digest: str
    """Of its own manifest."""
    signer: str | None
    """Public key of its signature, 64 hex digits; None where it has none."""
    checked: bool
    """Whether that is the key that was asked for."""
    files: Mapping[str, bytes] = field(repr=False)
    """Prompt files by their digests."""

    @property
    def missing(self) -> tuple[Entry, ...]:
        """Prompts whose bytes are not in it."""
        return tuple(entry for entry in self.entries if entry.digest not in self.files)

    def entry(self, task: str) -> Entry:
        """The prompt of a task. Raises `PromptFileError` where there is none."""
        for entry in self.entries:
            if entry.task == task:
                return entry
        raise PromptFileError(f"the bundle has no task {task[:80]!r}; it has {_listed([one.task for one in self.entries])}")

    def blob(self, task: str) -> bytes:
        """The prompt file of a task. Raises `PromptFileError` where it is not in the bundle."""
        entry = self.entry(task)
        if entry.digest not in self.files:
            raise _needs([entry], self.since)
        return self.files[entry.digest]

    def card(self, task: str) -> dict[str, Any]:
        """What is known of a task's prompt: template, labels, metric, scores and the rest."""
        return dict(_read_prompt(self.blob(task))[0])

    def vectors(self, task: str) -> Vectors:
        """The numbers of a task's prompt. A prefix has all layers' keys and values of a token beside each other in a row, an
        ensemble its members' rows one behind the other, as many of each as the card's `members` say."""
        return _read_numbers(task, self.blob(task), "prompt_embeddings")

    def head(self, task: str) -> tuple[Vectors, Vectors] | None:
        """The head that a task's prompt was trained with, where its base answers through one: the weight, a row for each
        output, and the bias, a row by itself. None where the base answers with words."""
        if self.card(task).get("task_type") != "SEQ_CLS":
            return None
        blob = self.blob(task)
        return _read_numbers(task, blob, "classifier_weight"), _read_numbers(task, blob, "classifier_bias")


def read_bundle(
    source: bytes | str | Path, *, key: bytes | None = None, former: Sequence[Bundle] = (), complete: bool = True
) -> Bundle:
    """Read a bundle and check all of it.

    Args:
        source: its bytes, or its file.
        key: the 32 bytes of the public key that must have signed it; by default the digests alone are checked, which find
            damage and no forger.
        former: bundles that have what a delta has not.
        complete: refuse a delta of which something is then still missing.

    Raises:
        PromptFileError: no bundle, altered, cut short, of a newer format, not signed by that key, or incomplete.
    """
    data = source if isinstance(source, bytes) else _read_file(Path(source))
    files = read_archive(data)
    manifest = _read_json(files.pop(MANIFEST, None), MANIFEST)
    raw = manifest_bytes(manifest)
    entries, base, since = _check_manifest(manifest)
    signature = files.pop(SIGNATURE, None)
    signer = None if signature is None else _check_signature(raw, _read_json(signature, SIGNATURE), key)
    if key is not None and signer is None:
        raise PromptFileError("the bundle is not signed, and a key was given to check it; ask for a signed one")
    by_digest: dict[str, bytes] = {}
    for name, blob in files.items():
        digest = hashlib.sha256(blob).hexdigest()
        match = _PROMPT.fullmatch(name)
        if match is None or match[1] != digest:
            raise PromptFileError(f"the bundle is altered: {name[:80]!r} has other bytes than its name says; {_AGAIN}")
        by_digest[digest] = blob
    if unnamed := by_digest.keys() - {entry.digest for entry in entries}:
        raise PromptFileError(f"the bundle is altered: nothing names the prompt {min(unnamed)}; {_AGAIN}")
    for entry in entries:
        for other in former:
            if entry.digest in other.files:
                by_digest.setdefault(entry.digest, other.files[entry.digest])
        if len(by_digest.get(entry.digest, b"")) != entry.bytes and entry.digest in by_digest:
            raise PromptFileError(f"the bundle is altered: {entry.ref} has another size than it says; {_AGAIN}")
    digest = hashlib.sha256(raw).hexdigest()
    bundle = Bundle(base, entries, since, digest, signer, key is not None, by_digest)
    if bundle.missing and since is None:
        raise PromptFileError(f"the bundle is altered: it lacks {_listed([one.ref for one in bundle.missing])}; {_AGAIN}")
    if bundle.missing and complete:
        raise _needs(bundle.missing, since)
    return bundle


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The one form of a manifest: JSON with sorted keys and no spaces."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def write_archive(files: Sequence[tuple[str, bytes]]) -> bytes:
    """A ZIP file of stored entries, the same bytes for the same files: no times, no compression."""
    parts, central, offset = [], [], 0
    for name, data in files:
        encoded, crc = name.encode("ascii"), zlib.crc32(data)
        same = (20, 0, 0, 0, _JANUARY_1980, crc, len(data), len(data), len(encoded), 0)
        head = _LOCAL.pack(b"PK\x03\x04", *same) + encoded
        parts += [head, data]
        central.append(_CENTRAL.pack(b"PK\x01\x02", 0x0314, *same, 0, 0, 0, _FILE, offset) + encoded)
        offset += len(head) + len(data)
    index = b"".join(central)
    end = _END.pack(b"PK\x05\x06", 0, 0, len(files), len(files), len(index), offset, 0)
    return b"".join([*parts, index, end])


def read_archive(data: bytes) -> dict[str, bytes]:
    """The files of an archive that is just what :func:`write_archive` makes of them, by name.

    Raises:
        PromptFileError: it is not.
    """
    if len(data) > MOST_BYTES:
        raise PromptFileError(f"the bundle has {len(data)} bytes, and at most {MOST_BYTES} are read; bundle fewer tasks")
    if data[:4] != b"PK\x03\x04":
        raise PromptFileError(f"this is no bundle: it begins with {data[:4]!r}; give a file that `softprompt bundle` wrote")
    files: dict[str, bytes] = {}
    place = 0
    while data[place : place + 4] == b"PK\x03\x04":
        if place + _LOCAL.size > len(data):
            raise PromptFileError(f"the bundle is cut short, at byte {len(data)}; {_AGAIN}")
        _, _, flags, method, _, _, _, size, whole, length, more = _LOCAL.unpack_from(data, place)
        place += _LOCAL.size
        name = data[place : place + length].decode("ascii", "backslashreplace")
        if name not in (MANIFEST, SIGNATURE) and not _PROMPT.fullmatch(name):
            raise PromptFileError(f"the bundle holds {name[:80]!r}, which is no file of a bundle; {_AGAIN}")
        if method or flags or more or size != whole:
            raise PromptFileError(f"the bundle is altered: {name!r} is packed, and files of a bundle never are; {_AGAIN}")
        if name in files:
            raise PromptFileError(f"the bundle is altered: it holds {name!r} twice; {_AGAIN}")
        if len(files) == MOST_FILES:
            raise PromptFileError(
                f"the bundle holds more than {MOST_FILES} files, the most that are read; bundle fewer tasks"
            )
        place += length
        if place + size > len(data):
            raise PromptFileError(f"the bundle is cut short, at byte {len(data)}, in {name!r}; {_AGAIN}")
        files[name] = data[place : place + size]
        place += size
    if write_archive(list(files.items())) != data:
        raise PromptFileError(f"the bundle is altered or cut short: its files and its index disagree; {_AGAIN}")
    if [*files] != sorted(files, key=lambda name: (name != MANIFEST, name != SIGNATURE, name)):
        raise PromptFileError(f"the bundle is altered: its files are not in their order; {_AGAIN}")
    return files


def _read_file(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise PromptFileError(f"{str(path)!r} has {size} bytes, and a bundle at most {MOST_BYTES}; give a bundle")
        return path.read_bytes()
    except OSError as error:
        raise PromptFileError(f"{str(path)!r} cannot be read ({error.strerror}); give a bundle") from None


def _read_json(data: bytes | None, name: str) -> dict[str, Any]:
    """A JSON object in its one form."""
    if data is None:
        raise PromptFileError(f"this is no bundle: it has no {name}; give a file that `softprompt bundle` wrote")
    try:
        value = json.loads(data)
        if isinstance(value, dict) and manifest_bytes(value) == data:
            return value
    except (ValueError, RecursionError):
        pass
    raise PromptFileError(f"the bundle is altered: {name} is not as it is written; {_AGAIN}")


def _check_manifest(manifest: Mapping[str, Any]) -> tuple[tuple[Entry, ...], Mapping[str, Any], str | None]:
    if manifest.get("kind") != "softprompt bundle" or not isinstance(manifest.get("format"), int):
        raise PromptFileError("this is no bundle: its manifest does not say so; give a file that `softprompt bundle` wrote")
    if manifest["format"] > FORMAT:
        raise PromptFileError(
            f"the bundle has format {manifest['format']}, and this softprompt reads up to {FORMAT}; upgrade softprompt"
        )
    try:
        entries = tuple(Entry(**row) for row in manifest["prompts"])
        base, since = manifest["base"], manifest["since"]
        kinds = [(entry.task, entry.digest, entry.version, entry.bytes) for entry in entries]
        right = all(tuple(map(type, kind)) == (str, str, int, int) for kind in kinds) and isinstance(
            base["fingerprint"], str
        )
        names = [entry.task for entry in entries]
        right = right and isinstance(base["name"], str) and isinstance(since, str | None) and names == sorted(set(names))
    except (KeyError, TypeError):
        right = False
    if not right or not entries:
        raise PromptFileError(f"the bundle is altered: its manifest names no prompts in order; {_AGAIN}")
    return entries, base, since


def _check_signature(raw: bytes, said: Mapping[str, Any], key: bytes | None) -> str:
    """The key that a bundle says it is signed by; checked where one was asked for."""
    signer, signature = str(said.get("public_key")), str(said.get("signature"))
    if said.keys() != {"algorithm", "public_key", "signature"} or said["algorithm"] != "Ed25519":
        raise PromptFileError("the signature of the bundle is of another kind than Ed25519; ask for the bundle again")
    if not re.fullmatch("[0-9a-f]{64} [0-9a-f]{128}", f"{signer} {signature}"):
        raise PromptFileError(f"the bundle is altered: {SIGNATURE} holds no signature; {_AGAIN}")
    if key is None:
        return signer
    if bytes.fromhex(signer) != key:
        raise PromptFileError(
            f"the bundle is signed by the key {signer[:16]}..., and not by {key.hex()[:16]}..., which was given; "
            "take it from whom you trust"
        )
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ModuleNotFoundError:
        raise PromptFileError(
            "to check a signature the package cryptography is needed; pip install 'softprompt[bundle]'"
        ) from None
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(signature), SIGNED + raw)
    except (InvalidSignature, ValueError):
        raise PromptFileError(f"the signature of the bundle is not that of its manifest: it was altered; {_AGAIN}") from None
    return signer


def _read_prompt(data: bytes) -> tuple[dict[str, Any], dict[str, tuple[str, list[int], bytes]]]:
    """Card and tensors of a prompt file, whose digest was checked."""
    size = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:size])
        card = json.loads(header.pop("__metadata__")["softprompt"])["card"]
        spans = {name: (one["dtype"], one["shape"], one["data_offsets"]) for name, one in header.items()}
        if not isinstance(card, dict):
            raise TypeError
        return card, {name: (kind, shape, data[size + a : size + b]) for name, (kind, shape, (a, b)) in spans.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PromptFileError(f"a prompt of the bundle is no prompt file; {_AGAIN}") from None


def _read_numbers(task: str, blob: bytes, name: str) -> Vectors:
    """A tensor of a task's prompt file; a bias is one row."""
    card, tensors = _read_prompt(blob)
    try:
        found = _widen(card, tensors, name)
    except (ValueError, KeyError, TypeError, IndexError, ArithmeticError, struct.error):
        found = None
    if found is None or min(found.rows, found.width) < 1 or len(found.values) != found.rows * found.width:
        raise PromptFileError(f"{name} of {task!r} in the bundle is not as its prompt file says; {_AGAIN}")
    return found


def _widen(card: Mapping[str, Any], tensors: Mapping[str, tuple[str, list[int], bytes]], name: str) -> Vectors:
    """A tensor as floats, whatever it is stored as."""
    kind, shape, data = tensors[name]
    rows, width = (1, *shape) if name == "classifier_bias" else shape
    if kind == "F32":
        values = _floats(data)
    elif kind == "BF16":  # the upper halves of floats
        values = _floats(b"".join(b"\0\0" + data[place : place + 2] for place in range(0, len(data), 2)))
    elif kind == "F16":
        values = array("f", struct.unpack(f"<{rows * width}e", data))
    elif kind == "I8":
        scales = _floats(tensors["scale"][2])
        block = width if card.get("prompt_type", "soft") == "soft" else 64
        each = -(-width // block)
        levels = array("b", data)
        values = array(
            "f", (level * scales[place // width * each + place % width // block] for place, level in enumerate(levels))
        )
    else:
        raise PromptFileError(
            f"the vectors of a prompt are stored as {kind!r}, which this softprompt does not read; upgrade"
        )
    return Vectors(rows, width, values)


def _floats(data: bytes) -> array[float]:
    values = array("f", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _needs(entries: Sequence[Entry], since: str | None) -> PromptFileError:
    which = ", ".join(f"{entry.ref} ({entry.digest})" for entry in entries[:3])
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return PromptFileError(
        f"the bundle holds only what changed and needs {which}{more}, which is not here; give the bundle that it follows "
        f"(manifest {str(since)[:16]}), too"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
