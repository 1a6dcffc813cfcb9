"""What this machine has for softprompt, and what is wrong with it: packages, processor, memory, library, base."""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from safetensors import safe_open

from softprompt.bases.devices import DTYPES, device_of, dtype_of, slow_at_16_bits, stored_dtype
from softprompt.bases.files.locate import is_local, locate
from softprompt.bases.files.weights import find_weights
from softprompt.bases.folder import check_folder
from softprompt.bases.gguf.file import read_gguf
from softprompt.bases.options import DEFAULT_BASE, BaseOptions
from softprompt.errors import NotFound, SoftPromptError
from softprompt.library.library import Library
from softprompt.locks import check_locks
from softprompt.text import plural

OK, NOTE, WRONG = "ok", "note", "wrong"
EXTRAS = {
    "peft": "PEFT's methods in `compare`, and prompts from and to it",
    "hub": "data sets from the hub",
    "excel": "tables of Excel",
    "redis": "a store in Redis",
    "postgres": "a registry in PostgreSQL",
    "retrieve": "passages looked up in a folder of texts",
    "bundle": "signed bundles",
    "tensorboard": "--report-to tensorboard",
    "mlflow": "--report-to mlflow, and export to it",
    "otel": "traces to OpenTelemetry",
    "quant": "bases in 8 and 4 bits",
    "ray": "replicas behind one address, trainings by workers",
}
"""What the optional packages are for, by the extra that brings them."""
ROOM = 1.5
"""Free memory over that of a base's weights below which it does not fit: steps and the engine need room beside them."""
LITTLE = 2 << 30
"""Bytes of free disk that are few."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: str
    """`ok`, `note` (it can do without) or `wrong`."""
    found: str
    mend: str = ""
    """What to do; empty where nothing is."""


def examine(open_library: Callable[[], Library], base: BaseOptions) -> Iterator[Finding]:
    """Look at the machine, each finding as soon as it is made. Nothing is loaded, fetched or made.

    Args:
        open_library: opens the library, and makes none where none is.
        base: is it whole, and does it fit into memory?
    """
    yield Finding("softprompt", OK, f"{version('softprompt')}, Python {platform.python_version()}, {platform.platform()}")
    yield from _packages()
    yield _processor()
    yield _memory()
    yield _accelerator()
    yield _compiler()
    yield _locks()
    yield from _library(open_library)
    yield _base(base)


def _packages() -> Iterator[Finding]:
    """What must be there, in one line where all is well; and each extra, by what it is for."""
    needed: dict[str, list[Requirement]] = {"": []}
    for line in requires("softprompt") or []:
        requirement = Requirement(line)
        extra = next((name for name in EXTRAS if requirement.marker and requirement.marker.evaluate({"extra": name})), "")
        if not requirement.marker or extra:
            needed.setdefault(extra, []).append(requirement)
    there, lacking = _installed(needed.pop(""))
    if lacking:
        yield Finding("packages", WRONG, "; ".join(lacking), "pip install --upgrade softprompt, in this environment")
    else:
        told = ("torch", "transformers", "tokenizers", "safetensors")
        yield Finding("packages", OK, ", ".join(f"{name} {number}" for name, number in there.items() if name in told))
    for name, purpose in EXTRAS.items():
        there, lacking = _installed(needed.get(name, []))
        if lacking:
            yield Finding(f"extra {name}", NOTE, f"not here: {purpose}", f"pip install 'softprompt[{name}]', if you need it")
        else:
            yield Finding(f"extra {name}", OK, ", ".join(f"{package} {number}" for package, number in there.items()))


def _installed(needed: Sequence[Requirement]) -> tuple[dict[str, str], list[str]]:
    """The versions of the packages that are there, and what is wrong with the others."""
    there: dict[str, str] = {}
    lacking = []
    for requirement in needed:
        try:
            number = version(requirement.name)
        except PackageNotFoundError:
            lacking.append(f"{requirement.name} is not installed")
            continue
        there[requirement.name] = number
        if not requirement.specifier.contains(number, prereleases=True):
            lacking.append(f"{requirement.name} {number} is here, and {requirement.specifier} is needed")
    return there, lacking


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    kind = torch.backends.cpu.get_cpu_capability()
    if slow_at_16_bits(torch.device("cpu")):
        text = f"{plural(cores, 'core')}, {kind}, no AMX: `--dtype auto` is float32 here, which is the quicker one"
    else:
        text = f"{plural(cores, 'core')}, {kind}, AMX: `--dtype auto` is as a base is stored, and bf16 is quick"
    threads = torch.get_num_threads()
    if threads > cores:
        return Finding("processor", NOTE, f"{text}; {threads} threads", f"set OMP_NUM_THREADS={cores}; more slow each other")
    return Finding("processor", OK, f"{text}; {plural(threads, 'thread')}")


def _memory() -> Finding:
    free, total = free_memory()
    if math.isnan(free):
        return Finding("memory", NOTE, "this system does not tell")
    return Finding("memory", OK, f"{_size(free)} free of {_size(total)}")


def free_memory() -> tuple[float, float]:
    """Bytes of memory that are free, and of all of it; not a number where the system does not tell."""
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return float(told["MemAvailable"].split()[0]) * 1024, float(told["MemTotal"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return math.nan, math.nan


def _accelerator() -> Finding:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
        return Finding("accelerator", OK, ", ".join(f"{one.name} ({_size(one.total_memory)})" for one in names))
    if torch.backends.mps.is_available():
        return Finding("accelerator", OK, "Apple's, with --device mps")
    return Finding("accelerator", NOTE, "none; everything runs on the processor")


def _compiler() -> Finding:
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if found is None:
        text = "no C++ compiler; long trainings run without compiled blocks, which is slower and just as right"
        return Finding("compiler", NOTE, text, "install g++, if trainings are long")
    return Finding("compiler", OK, f"{found}; blocks are compiled where a training is long enough")


def _locks() -> Finding:
    try:
        check_locks()
    except SoftPromptError as error:
        return Finding("system", WRONG, str(error))
    return Finding("system", OK, f"{sys.platform} has the file locks that a library needs")


def _library(open_library: Callable[[], Library]) -> Iterator[Finding]:
    folder = Path.cwd()
    try:
        with open_library() as library:
            folder = library.home
            yield Finding("library", OK, f"{plural(len(library.registry.tasks()), 'task')} in {folder}")
    except NotFound as error:
        yield Finding("library", NOTE, f"{error}", "nothing, if nothing was trained yet: the first training makes it")
    except SoftPromptError as error:
        yield Finding("library", WRONG, str(error))
    above = next(one for one in (folder, *folder.parents) if one.exists())
    if not os.access(above, os.W_OK):
        yield Finding("disk", WRONG, f"{above} may not be written", "name a folder of yours with --home or SOFTPROMPT_HOME")
        return
    free = shutil.disk_usage(above).free
    state = (OK, "") if free > LITTLE else (NOTE, "make room; checkpoints and caches of GGUF files are large")
    yield Finding("disk", state[0], f"{_size(free)} free at {above}", state[1])


def _base(options: BaseOptions) -> Finding:
    source = options.source or DEFAULT_BASE
    name = f"base {source}"
    try:
        if not is_local(source):
            return Finding(name, NOTE, "a hub id; nothing is known of it before it is fetched", "softprompt base show ID")
        folder = locate(source, revision=options.revision)
        config = check_folder(folder, options.address, code=options.trust_remote_code)
        numbers = parameters(folder, config)
    except SoftPromptError as error:
        return Finding(name, WRONG, str(error))
    kind = config.get("model_type") or "model"
    if numbers is None:
        return Finding(name, OK, f"a whole {kind}; its weights are pickles, whose numbers are not counted here")
    dtype, (free, _) = _dtype(options.dtype, config), free_memory()
    wide = DTYPES[dtype].itemsize * numbers
    text = f"a whole {kind} of {numbers:,} numbers; its weights take {_size(wide)} in {dtype}"
    if free < ROOM * wide:
        return Finding(
            name, WRONG, f"{text}, and {_size(free)} are free", "--quantization int8, a smaller base, or a larger machine"
        )
    return Finding(name, OK, text)


def parameters(folder: Path, config: dict[str, Any]) -> int | None:
    """How many numbers the weights of a base have, by what its files say; None for pickles, which are not opened."""
    if folder.is_file():
        return sum(math.prod(tensor.shape) for tensor in read_gguf(folder).tensors)
    files = find_weights(folder, config)
    if any(file.suffix != ".safetensors" for file in files):
        return None
    count = 0
    for file in files:
        with safe_open(file, framework="numpy") as opened:
            count += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return count


def _dtype(name: str, config: dict[str, Any]) -> str:
    """The dtype that a base is loaded in, by its name."""
    device = device_of(None)
    chosen = dtype_of(name) or (torch.float32 if slow_at_16_bits(device) else stored_dtype(config))
    return next(known for known, dtype in DTYPES.items() if dtype == chosen)


def _size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB" if count < 1000 else f"{count / 1000:.3g} TB"
