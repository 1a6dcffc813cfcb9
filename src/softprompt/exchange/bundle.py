"""Bundles: prompts of a library and what base they are for, in one signed archive, and back into a library."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, LibraryError, NotFound, PromptFileError
from softprompt.exchange.bundle_reader import (
    FORMAT,
    MANIFEST,
    SIGNATURE,
    SIGNED,
    Bundle,
    Entry,
    manifest_bytes,
    read_bundle,
    write_archive,
)
from softprompt.exchange.importing import address_of
from softprompt.files import write_whole
from softprompt.library.filling import ToFill
from softprompt.names import check_new_task, check_tags
from softprompt.prompts.file import digest_of, read_card
from softprompt.registry.records import Record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from softprompt.library.library import Library
    from softprompt.prompts.card import Card, Dtype
    from softprompt.registry.records import Version

ENERGY = "not measured"
"""What a bundle says of the energy that its prompts take on a device."""


@dataclass(frozen=True)
class Bundled(Record):
    """A bundle that was written."""

    path: str
    base: str
    fingerprint: str
    tasks: tuple[str, ...]
    """The versions in it, as `task@3`."""
    unchanged: tuple[str, ...]
    """Those that the older bundle has, and this one has not."""
    bytes: int
    digest: str
    """SHA-256 of the file."""
    signer: str | None
    """Public key of the signature; None where there is none."""
    energy: str = ENERGY


@dataclass(frozen=True)
class Unbundled(Record):
    """What became of a prompt of a bundle."""

    task: str
    version: int
    """Its number here."""
    digest: str
    bundled: str
    """What it was called where the bundle was made."""
    added: bool
    """False where it is the newest version here already."""


def bundle(
    library: Library,
    refs: Sequence[str],
    file: str | Path,
    *,
    key: str | Path | None = None,
    since: str | Path | None = None,
    dtype: Dtype | None = None,
) -> Bundled:
    """Write versions of several tasks on one base to an archive; the same versions and the same key give the same bytes.

    Args:
        refs: the versions, one of each task.
        key: a PEM file with the private key (Ed25519) that signs it; else it is not signed.
        since: an older bundle, of which only what changed is written.
        dtype: how vectors are stored; by default as they are.

    Raises:
        ConfigError: no version is named, two of one task, or on different bases; or the key cannot be used.
        NotFound: no such version, or its bytes are gone.
        PromptFileError: the older bundle is none, or is for another base.
        LibraryError: the file cannot be written, or the library fails.
    """
    signing = None if key is None else _private_key(Path(key))
    versions = _chosen(library, refs)
    old = None if since is None else read_bundle(since, key=None if signing is None else _public(signing), complete=False)
    blobs = {version.ref: _stored_as(library.read(version), dtype) for version in versions}
    card = versions[0].card
    if old is not None and old.base["fingerprint"] != card.fingerprint:
        raise PromptFileError(
            f"{str(since)!r} is for base {old.base['name']} ({old.base['fingerprint']}), and these tasks are on {card.base} "
            f"({card.fingerprint}); leave --since out"
        )
    rows = [(version, digest_of(blobs[version.ref]), blobs[version.ref]) for version in versions]
    known = set() if old is None else {entry.digest for entry in old.entries}
    manifest: dict[str, Any] = {
        "kind": "softprompt bundle",
        "format": FORMAT,
        "base": _base_of(card),
        "prompts": [
            {"task": version.task, "version": version.number, "digest": digest, "bytes": len(blob)}
            for version, digest, blob in rows
        ],
        "since": None if old is None else old.digest,
        "energy": ENERGY,
    }
    raw = manifest_bytes(manifest)
    files = [(MANIFEST, raw)]
    if signing is not None:
        said = {"algorithm": "Ed25519", "public_key": _public(signing).hex(), "signature": signing.sign(SIGNED + raw).hex()}
        files.append((SIGNATURE, manifest_bytes(said)))
    files += sorted({f"prompts/{digest}.safetensors": blob for _, digest, blob in rows if digest not in known}.items())
    data = write_archive(files)
    read_bundle(data, complete=False)  # what cannot be read again is not written
    target = Path(file)
    try:
        write_whole(target, data)
    except OSError as error:
        raise LibraryError(f"cannot write {str(file)!r}: {error.strerror}; choose another file") from error
    new = tuple(version.ref for version, digest, _ in rows if digest not in known)
    rest = tuple(version.ref for version, digest, _ in rows if digest in known)
    signer = None if signing is None else _public(signing).hex()
    return Bundled(
        str(target.absolute()), card.base, card.fingerprint, new, rest, len(data), digest_of(data), signer
    )  # fmt: skip


def unbundle(
    library: Library | ToFill,
    file: str | Path,
    *,
    key: str | Path | None = None,
    base: BaseOptions | str | None = None,
    tags: Iterable[str] = (),
    warn: Callable[[str], object] | None = None,
) -> list[Unbundled]:
    """Publish the prompts of a bundle, each as a new version of its task: all or none. One that is the newest version of its
    task already gets the tags alone; what a delta has not is taken from the library.

    Args:
        key: a PEM file with the public key (Ed25519) that must have signed it.
        base: the base, and how to load it; by default as the library knows it by its fingerprint, else as it is named.
        tags: of the versions, those that are here already too.
        warn: hears of what nothing proves.

    Raises:
        PromptFileError: no bundle, altered, cut short, not signed by that key, or a delta on something that is not here.
        ConfigError: the key cannot be used.
        FingerprintMismatch: the base is another one.
        LibraryError: a name is refused, or the library fails.
    """
    tags, public, fill = check_tags(tags), None if key is None else read_public_key(Path(key)), ToFill.of(library)
    found = read_bundle(Path(file), key=public, complete=False)
    if warn is not None and key is None:
        said = f"is signed by {found.signer[:16]}..., which was not checked" if found.signer else "is not signed"
        warn(f"{str(file)!r} {said}: whoever could change it could have made it; give the maker's public key with --key")
    blobs = {entry.digest: found.files.get(entry.digest) or _here(fill.there, entry, found) for entry in found.entries}
    cards = {digest: read_card(blob) for digest, blob in blobs.items()}
    for entry in found.entries:
        card = cards[entry.digest]
        if card.fingerprint != found.base["fingerprint"] or card.task != check_new_task(entry.task):
            raise PromptFileError(
                f"{entry.ref} of the bundle is a prompt of task {card.task!r} for {card.fingerprint}, and the bundle says "
                "otherwise; ask for it again"
            )
    newest = {entry.task: _newest(fill.there, entry.task) for entry in found.entries}
    fresh = [entry for entry in found.entries if (there := newest[entry.task]) is None or there.digest != entry.digest]
    made: dict[str, Version] = {}
    options = BaseOptions.of(base)
    if fresh or options != BaseOptions():  # what is said of the base is to be true, also where nothing is new
        address = address_of(fill.there, str(file), cards[found.entries[0].digest], options, warn)
    if fresh:
        from softprompt.prompts.prompt import SoftPrompt  # which reads the numbers, and so needs torch

        for entry in fresh:
            SoftPrompt.from_bytes(blobs[entry.digest])
        versions = fill.made().publish_all([blobs[entry.digest] for entry in fresh], base=address, tags=tags)
        made = {version.task: version for version in versions}
    rows = []
    for entry in found.entries:
        version = made.get(entry.task) or newest[entry.task]
        assert version is not None
        if tags and entry.task not in made:
            fill.made().registry.tag(version.ref, add=tags)
        rows.append(Unbundled(entry.task, version.number, entry.digest, entry.ref, entry.task in made))
    return rows


def read_public_key(file: Path) -> bytes:
    """The 32 bytes of a public key (Ed25519) in a PEM file, or of that which belongs to the private one there.

    Raises:
        ConfigError: there is none.
    """
    data = _read_key(file)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in data:
        return _public(_private_key(file))
    try:
        key = load_pem_public_key(data)
    except ValueError:
        raise ConfigError(f"--key: {str(file)!r} is no PEM file of a public key; {_MAKE}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"--key: {str(file)!r} is no key of Ed25519; {_MAKE}")
    return key.public_bytes_raw()


_MAKE = (
    "`openssl genpkey -algorithm ed25519 -out key.pem` makes a private key, `openssl pkey -in key.pem -pubout` gives its "
    "public one"
)


def _read_key(file: Path) -> bytes:
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("--key needs the package cryptography; pip install 'softprompt[bundle]'") from None
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"--key: {str(file)!r} cannot be read ({error.strerror}); {_MAKE}") from None


def _private_key(file: Path) -> Ed25519PrivateKey:
    data = _read_key(file)
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise ConfigError(f"--key: {str(file)!r} is locked with a password; give a key without one") from None
    except ValueError:
        raise ConfigError(f"--key: {str(file)!r} is no PEM file of a private key; {_MAKE}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(f"--key: {str(file)!r} is no key of Ed25519; {_MAKE}")
    return key


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _chosen(library: Library, refs: Sequence[str]) -> list[Version]:
    """The versions by task, one of each, all on one base."""
    if not refs:
        raise ConfigError("a bundle of no task was asked for; name one or more")
    versions = sorted((library.registry.resolve(ref) for ref in refs), key=lambda version: version.task)
    for one, other in itertools.pairwise(versions):
        if one.task == other.task:
            raise ConfigError(
                f"{one.ref} and {other.ref} are of one task, and a bundle has one version of each; leave one out"
            )
        if one.fingerprint != other.fingerprint:
            raise ConfigError(
                f"{one.ref} is on {one.card.exact_base} ({one.fingerprint}) and {other.ref} on {other.card.exact_base} "
                f"({other.fingerprint}); a bundle is for one base: make one for each"
            )
    return versions


def _base_of(card: Card) -> dict[str, Any]:
    return {
        "name": card.base,
        "fingerprint": card.fingerprint,
        "revision": card.recipe.get("revision"),
        "adapter": card.recipe.get("adapter"),
        "task_type": card.task_type,
    }


def _stored_as(data: bytes, dtype: Dtype | None) -> bytes:
    if dtype is None or read_card(data).dtype == dtype:
        return data
    from softprompt.prompts.prompt import SoftPrompt

    return SoftPrompt.from_bytes(data).as_dtype(dtype).to_bytes()


def _here(library: Library | None, entry: Entry, found: Bundle) -> bytes:
    """The bytes of what a delta has not, from the library."""
    for version in _versions(library, entry.task):
        if library is not None and version.digest == entry.digest:
            return library.read(version)
    raise PromptFileError(
        f"the bundle holds only what changed and needs {entry.ref} ({entry.digest}), which the library has not; take in the "
        f"bundle that it follows (manifest {str(found.since)[:16]}) first"
    )


def _versions(library: Library | None, task: str) -> list[Version]:
    if library is None:
        return []
    try:
        return library.registry.versions(task, deleted=False)
    except NotFound:
        return []


def _newest(library: Library | None, task: str) -> Version | None:
    return max(_versions(library, task), key=lambda version: version.number, default=None)
