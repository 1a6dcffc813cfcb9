"""Reading a saved model and its tokenizer through transformers: whole, or not at all."""

from __future__ import annotations

import contextlib
import logging
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.architectures import OTHER, is_headless, task_type_of_config
from softprompt.bases.files.fingerprint import fingerprint_of_folder
from softprompt.bases.files.locate import locate
from softprompt.bases.files.text_half import text_half
from softprompt.bases.files.vocabulary import WHOLE
from softprompt.bases.files.weights import find_weights
from softprompt.bases.folder import check_folder
from softprompt.bases.gguf.cache import folder_of_gguf, write_tokenizer
from softprompt.bases.options import DEFAULT_BASE, BaseOptions
from softprompt.bases.quantization import forget_pages
from softprompt.errors import BaseModelError, reason_of
from softprompt.text import plural

_log = logging.getLogger(__name__)

# transformers imports torchao where it is installed, which then tells of kernels that this machine has no use for.
for _talker in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_talker).setLevel(logging.ERROR)


def _loader(task_type: str, config: dict[str, Any]) -> tuple[Any, Any, str]:
    """What transformers loads models of a task type by, the kinds that it has of them, and what they are called."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    if task_type == "SEQ_2_SEQ_LM":
        seq2seq = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        return transformers.AutoModelForSeq2SeqLM, seq2seq, "encoder-decoder model that takes text alone"
    if task_type == "MASKED_LM":
        return transformers.AutoModelForMaskedLM, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "masked language model"
    if task_type == "SEQ_CLS" and is_headless(config):
        return transformers.AutoModel, auto.MODEL_MAPPING_NAMES, "encoder"
    if task_type == "SEQ_CLS":
        classifiers = auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        return transformers.AutoModelForSequenceClassification, classifiers, "sequence classifier"
    return (
        transformers.AutoModelForCausalLM, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "causal language model that takes text alone",
    )  # fmt: skip


def read_model(folder: Path, source: str, config: dict[str, Any], reading: dict[str, Any]) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, whole: of the class that its config's task type asks for.

    Args:
        folder: where they lie.
        source: what the user calls it.
        config: the model's, as it is written there.
        reading: how transformers is to load it.

    Raises:
        BaseModelError: they cannot be read, or weights are missing.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES as KNOWN

    kind, task_type = config.get("model_type"), task_type_of_config(config)
    loader, kinds, called = _loader(task_type, config)
    try:
        with quiet():
            own = None if config.get("auto_map") or kind not in KNOWN else transformers.AutoConfig.from_pretrained(folder)
            half = text_half(own) if own is not None and task_type == "CAUSAL_LM" else None
            if half is None and own is not None and kind not in kinds:
                raise BaseModelError(
                    f"{source!r} is of the kind {kind!r}, of which transformers {transformers.__version__} has no {called}; "
                    f"{OTHER}"
                )
            reading = {**reading, "output_loading_info": True, "ignore_mismatched_sizes": True}
            if half is not None:
                model, found = half.model_class.from_pretrained(folder, **reading, **half.reading())
                alike = half.is_like_the_whole(model)
                if not alike and kind in kinds:
                    half = None
            if half is None:
                model, found = loader.from_pretrained(folder, **reading)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=reading["trust_remote_code"])
    except BaseModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise BaseModelError(
            f"{source!r} ({folder}) cannot be loaded: {reason_of(error)}; fetch it again, or give another"
        ) from None
    except pickle.UnpicklingError:
        raise BaseModelError(
            f"{_pickle_with_code(find_weights(folder, config))} is a pickle of more than tensors, which can name code "
            "to be run, or a damaged one, and is not opened; give the model with its weights in safetensors"
        ) from None
    except Exception as error:  # safetensors and tokenizers raise classes of their own for damaged files
        raise BaseModelError(
            f"{source!r} ({folder}) is damaged or not readable: {type(error).__name__}: {reason_of(error)}; fetch it again"
        ) from None
    if getattr(tokenizer, "backend_tokenizer", None) is None and (folder / WHOLE).is_file():
        raise BaseModelError(
            f"{source!r} ({folder}) has a {WHOLE} which its tokenizer, {type(tokenizer).__name__}, does not read: it is "
            f"built from the vocabulary beside it; move {WHOLE} out of the folder"
        )
    # Weights that are not there, or of another shape, transformers would fill with random numbers.
    unused = "pooler." if is_headless(config) else "\0"  # what stands behind an encoder's states, and no head of ours asks
    if lacking := sorted(key for key in found["missing_keys"] if not key.startswith(unused)):
        raise BaseModelError(
            f"{source!r} ({folder}) lacks {plural(len(lacking), 'weight')} of {type(model).__name__}, {lacking[0]!r} among "
            "them; fetch or save it again, or give a base with a language-modelling head"
        )
    if other := sorted(found["mismatched_keys"]):
        name, there, asked = other[0]
        raise BaseModelError(
            f"{source!r} ({folder}) has {plural(len(other), 'weight')} of another shape than its config.json asks for: "
            f"{name!r} is {_size(there)}, and not {_size(asked)}; give the config and the weights of one model"
        )
    left = _left_out(model, found["unexpected_keys"])
    if half is not None and (left or not alike):
        raise BaseModelError(
            f"the text half of {source!r} ({kind}) is no {type(model).__name__} by itself: "
            f"{left[0] if left else 'what stands around it'} would be left out; {OTHER}"
        )
    if left:
        _log.warning(
            "%s has %s that %s does not take, %r among them; what is computed is without them",
            source, plural(len(left), "weight"), type(model).__name__, left[0],
        )  # fmt: skip
    return model, tokenizer


@torch.no_grad()
def check_finite(model: Any, source: str, *, forget: bool = False) -> None:
    """Refuse a model that would answer with NaN: one with a weight that is no number. Rows of the embedding are apart, of
    which a text uses few.

    Args:
        forget: give the memory of what was read of a mapped file back, weight by weight.

    Raises:
        BaseModelError: there is such a weight, or the model has no table of embeddings.
    """
    try:
        embedding = model.get_input_embeddings().weight
    except (NotImplementedError, AttributeError):
        raise BaseModelError(
            f"{source!r} ({type(model).__name__}) has no table of input embeddings, of whose kind vectors are; {OTHER}"
        ) from None
    for name, tensor in model.named_parameters():
        if tensor is embedding or not tensor.is_floating_point() or tensor.element_size() < 2:
            continue
        # A sum is read as fast as memory is, and no number where one of its terms is none; of large ones it may overflow.
        if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
            raise BaseModelError(
                f"{source!r} holds NaN or infinity in {name!r} (as {str(tensor.dtype)[6:]}); fetch or save it again"
                + (", or give another dtype" if tensor.dtype == torch.float16 else "")
            )
        if forget:
            forget_pages(tensor)


def _left_out(model: Any, unexpected: Iterable[str]) -> list[str]:
    """The weights of a model's decoder, by what its parts and its weights are called, that were read by nothing. Old files
    keep what is computed anew, such as masks, by other names."""
    prefix = f"{model.base_model_prefix}."
    parts = {name for name, _ in model.base_model.named_children()}
    ends = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    ours = (key for key in unexpected if key.startswith(prefix) and key.rpartition(".")[2] in ends)
    return sorted(key for key in ours if key.split(".")[1] in parts)


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _pickle_with_code(files: list[Path]) -> Path:
    """The first of several files of weights that cannot be read as tensors alone."""
    for file in files:
        try:
            torch.load(file, map_location="meta", weights_only=True)
        except pickle.UnpicklingError:
            return file
    return files[0]


def loadable(path: Path, source: str, dtype: torch.dtype) -> Path:
    """The folder that transformers loads of a base: itself, or what a GGUF file is unpacked to.

    Args:
        dtype: in which a file's weights are unpacked.

    Raises:
        BaseModelError: the file cannot be read.
    """
    if path.is_dir():
        return path
    with quiet():
        return folder_of_gguf(path, source, lambda: fingerprint_of_folder(path), dtype)


def read_tokenizer(options: BaseOptions) -> Any:
    """The tokenizer of a base alone: weights are neither taken into memory nor unpacked.

    Raises:
        BaseModelError: the base cannot be found, is none, or its tokenizer cannot be read.
    """
    import transformers

    source, code = options.address, options.trust_remote_code
    path = locate(options.source or DEFAULT_BASE, revision=options.revision, code=code)
    check_folder(path, source, code=code)
    try:
        with quiet(), tempfile.TemporaryDirectory() as made:
            if path.is_file():
                write_tokenizer(path, source, Path(made))
            folder = made if path.is_file() else path
            return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
    except BaseModelError:
        raise
    except Exception as error:  # tokenizers raises classes of its own for damaged files
        raise BaseModelError(
            f"the tokenizer of {source!r} ({path}) cannot be loaded: {reason_of(error)}; fetch it again, or give another"
        ) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Say nothing while transformers loads or tokenises."""
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("transformers")
    level = logger.level
    bars = transformers_logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
