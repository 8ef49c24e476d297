"""Checkpoints: torch.distributed.checkpoint for tensors, JSON for the rest, published whole or not at all.

The tensors are keyed by parameter name, so a checkpoint written by one number of ranks loads on another. Nothing is ever
unpickled freely: the one pickled file of the format, its metadata, is read by an unpickler that knows only its classes.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import uuid
from pathlib import Path, PosixPath
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from intrr_rec.artefact import swap_into_place, write_json
from intrr_rec.errors import ArtefactError
from intrr_rec.parallel.apply import Parallel
from intrr_rec.parallel.topology import World

STATE = "state.json"


def save_checkpoint(
    path: Path, parallel: Parallel, world: World, state: dict[str, Any], *, with_optimizer: bool
) -> None:
    """Write model (and optimizer) tensors and `state`; every rank calls this. `state.json` is written last, then the
    folder is swapped into place."""
    token = [uuid.uuid4().hex[:8] if world.is_main else ""]
    dist.broadcast_object_list(token, device=world.device)
    staging = path.with_name(f".{path.name}.tmp-{token[0]}")
    if world.is_main:
        for stale in path.parent.glob(f".{path.name}.tmp-*"):  # of a job that was killed while saving
            shutil.rmtree(stale, ignore_errors=True)
    world.barrier()
    try:
        dcp.save(_tensors(parallel, with_optimizer), storage_writer=dcp.FileSystemWriter(staging, sync_files=True))
        if world.is_main:
            write_json(staging / STATE, state)
            swap_into_place(staging, path)
    finally:
        if world.is_main:
            shutil.rmtree(staging, ignore_errors=True)
    world.barrier()


def load_checkpoint(path: Path, parallel: Parallel, *, with_optimizer: bool) -> dict[str, Any]:
    """Load tensors in place, on any number of ranks, and return the saved state.

    Raises:
        ArtefactError: no complete checkpoint there, or one of another model.
    """
    state = read_state(path)
    if state is None:
        raise ArtefactError(f"{path}: holds no complete checkpoint; train first or mend the path")
    if with_optimizer:
        parallel.optimizer.optimizers[-1][1].init_state()  # moments exist only after a step; they are overwritten here
    tensors = _tensors(parallel, with_optimizer)
    try:
        dcp.load(tensors, storage_reader=_WeightsOnlyReader(path))
    except (dcp.CheckpointException, pickle.UnpicklingError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[-1][:200]
        raise ArtefactError(f"{path}: does not fit this model or is damaged ({first})") from None
    parallel.module.load_state_dict(tensors["model"])
    return state


def read_state(path: Path) -> dict[str, Any] | None:
    """The saved state of a complete checkpoint, or None.

    Raises:
        ArtefactError: it is damaged.
    """
    try:
        return json.loads((path / STATE).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ArtefactError(f"{path / STATE}: is damaged; remove {path} and train again") from None


def _tensors(parallel: Parallel, with_optimizer: bool) -> dict[str, Any]:
    tensors: dict[str, Any] = {"model": dict(parallel.module.state_dict())}
    if with_optimizer:
        tensors["optimizer"] = parallel.optimizer.state_dict()["state"]
    return tensors


class _WeightsOnlyReader(FileSystemReader):
    """Reads the metadata with an unpickler limited to the classes a metadata file is made of."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        metadata = _MetadataUnpickler(io.BytesIO(path.read_bytes())).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes a metadata file of tensors is made of, by their exact names.

    A looser rule is no rule: "torch.distributed.checkpoint.filesystem" also has an `os.system`, and an entry that is not a
    tensor (`BytesStorageMetadata`) makes the loader unpickle freely.
    """

    def find_class(self, module: str, name: str) -> Any:
        if name == "PosixPath" and module.partition(".")[0] == "pathlib":
            return PosixPath  # its module's name differs between versions of Python
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in _METADATA_CLASSES:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in checkpoint metadata")
        return super().find_class(module, name)


_METADATA_CLASSES = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
}
