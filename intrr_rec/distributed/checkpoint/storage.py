"""Checkpoints: torch.distributed.checkpoint for tensors, JSON for the rest, published whole or not at all.

The tensors are keyed by parameter name, so a checkpoint written by one number of ranks loads on another. A checkpoint is a
folder with a file of hashes, written last: one that lacks it or does not match it is refused. Nothing is ever unpickled
freely: the one pickled file of the format, its metadata, is read by an unpickler that knows only its classes.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import uuid
from dataclasses import replace
from pathlib import Path, PosixPath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from pydantic import BaseModel, ConfigDict, Field
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from intrr_rec.distributed.checkpoint.files import HashedFiles, HashedWriter
from intrr_rec.distributed.checkpoint.state import checked
from intrr_rec.distributed.parallelize import Parallel
from intrr_rec.distributed.world import World, is_lost_rank
from intrr_rec.errors import ArtefactError, OutOfMemoryError, PlaceError, UserError
from intrr_rec.io.artefact import COMPLETE
from intrr_rec.io.disk.atomic import swap_into_place, sync, write_bytes, write_json
from intrr_rec.io.disk.places import is_out_of_memory, not_the_input, trouble
from intrr_rec.io.formats.records import LARGEST, as_record, parse_json, sealed, unsealed
from intrr_rec.io.manifest import FileName, Hash
from intrr_rec.io.shards import link
from intrr_rec.io.stores.storage import Folder, Location, below, location

STATE, METADATA = "state.json", ".metadata"
SCHEMA = 2
_FIX = "put a whole checkpoint back"
Tree = dict[str, Any]  # of such trees, and of tensors, sharded ones among them
STRETCH = 8 << 20  # bytes of a tensor read at once


class Complete(BaseModel):
    """`complete.json`: the hashes of a checkpoint's files, sealed.

    Attributes:
        within: in a store, the folder that holds them, seen from the folder of all checkpoints.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    checkpoint_schema: int = Field(SCHEMA, ge=SCHEMA, le=SCHEMA)
    files: dict[FileName, Hash]
    within: FileName | None = None


def save_checkpoint(
    path: Location, tensors: Tree, world: World, state: dict[str, Any], also: Location | None = None
) -> None:
    """Write `checkpoint_tensors`, or a copy or a part of them, and the main rank's `state`; every rank calls this.

    On a disk all is written and synced in a folder beside `path`, the hashes of its files last; then that folder is renamed to
    `path`. In a store it is written to a folder within `path`, and then the hashes of its files, which name that folder, are put.

    Args:
        also: a second name for the same checkpoint: hard links, or in a store hashes that name the same files. It has them first.

    Raises:
        PlaceError: the disk is full or cannot be written, on every rank; what was at `path` is still there.
    """
    mark = world.broadcast(uuid.uuid4().hex[:8])
    if isinstance(path, Path):
        staging: Location = path.with_name(f".{path.name}.tmp-{mark}")
        if world.is_main:
            remove_unfinished(path.parent)
        world.barrier()
    else:
        staging = below(path, mark)
    writer = HashedWriter(Folder.at(staging))

    def write_tensors() -> None:
        try:
            dcp.save(dict(tensors), storage_writer=writer, process_group=world.group)
        except (dcp.CheckpointException, OSError) as error:
            raise cannot_write(path, error) from None

    def publish() -> None:
        if not world.is_main:
            return
        try:
            text = json.dumps(state, indent=2, sort_keys=True).encode()
            sums[STATE] = hashlib.sha256(text).hexdigest()
            if isinstance(path, Path) and isinstance(staging, Path):
                write_bytes(staging / STATE, text)
                write_json(staging / COMPLETE, sealed(Complete(files=sums).model_dump(exclude_none=True)))
                sync(staging)
                if isinstance(also, Path):
                    _link(staging, also)
                swap_into_place(staging, path)
            else:
                writer.files.folder.write(STATE, text)
                within = str(staging).removeprefix(f"{str(path).rpartition('/')[0]}/")
                found = json.dumps(sealed(Complete(files=sums, within=within).model_dump())).encode()
                for place in (also, path):
                    if place is not None:
                        Folder.at(place).write(COMPLETE, found)
        except (OSError, PlaceError) as error:
            raise cannot_write(path, error) from None

    try:
        world.agree(write_tensors)
        sums = {name: digest for part in world.gather(writer.hashes) for name, digest in part.items()}
        world.agree(publish)
    finally:
        if world.is_main and isinstance(staging, Path):
            shutil.rmtree(staging, ignore_errors=True)


def _link(staging: Path, also: Path) -> None:
    """Give a checkpoint that is written a second name, by hard links; by copies where the file system has none."""
    twin = also.with_name(f".{also.name}.tmp-{staging.name[-8:]}")
    twin.mkdir()
    try:
        for path in staging.iterdir():
            link(path, twin / path.name)
        sync(twin)
        swap_into_place(twin, also)
    finally:
        shutil.rmtree(twin, ignore_errors=True)


def load_checkpoint(
    path: Location, parallel: Parallel, world: World, *, with_optimizer: bool, averaged: bool = False
) -> dict[str, Any]:
    """Load tensors in place, on any number of ranks, and return the saved state.

    Args:
        averaged: load the average of the weights into the model where the checkpoint holds one.

    Raises:
        ArtefactError: no complete checkpoint there, a damaged one, or one of another model; on every rank. The model may
            then hold a part of it.
        KeyboardInterrupt: Ctrl-C while it was read.
    """
    world.agree(lambda: verify(path, world))
    if with_optimizer:
        parallel.optimizer.optimizers[-1][1].init_state()  # moments exist only after a step; they are overwritten here
    tensors = checkpoint_tensors(parallel, with_optimizer)
    model = tensors["model"]
    try:
        reader = WeightsOnlyReader(path)
        if averaged and any(key.startswith("average.") for key in reader.read_metadata().state_dict_metadata):
            tensors["average"] = tensors.pop("model")
        dcp.load(tensors, storage_reader=reader)
    except UserError:
        raise
    except (Exception, dcp.CheckpointException) as error:  # its files may hold anything
        _not_an_interrupt(error)
        not_the_input(error)
        if isinstance(error, RuntimeError) and is_lost_rank(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        raise ArtefactError(f"{path}: does not fit this model ({first})") from None
    parallel.module.load_state_dict(model)
    return read_state(path)


def read_state(path: Location) -> dict[str, Any]:
    """The state that was saved with a checkpoint.

    Raises:
        ArtefactError: no complete checkpoint, or a damaged one.
    """
    folder, sums = files_of(path)
    try:
        data = folder.read(STATE, LARGEST)
    except ArtefactError as error:
        raise ArtefactError(f"{path}: is damaged ({STATE} cannot be read: {error})") from None
    if hashlib.sha256(data).hexdigest() != sums[STATE]:
        raise ArtefactError(f"{path}: is damaged ({STATE} is not what was written)")
    state = parse_json(data, f"{path}/{STATE}", _FIX)
    if not isinstance(state, dict):
        raise ArtefactError(f"{path}: is damaged ({STATE} is no JSON object)")
    return checked(state, f"{path}/{STATE}")


def files_of(path: Location) -> tuple[Folder, dict[str, str]]:
    """Where the files of a checkpoint lie, and their hashes.

    Raises:
        ArtefactError: no complete checkpoint, or a damaged one.
    """
    folder = Folder.at(path)
    if not folder.has(COMPLETE):
        raise ArtefactError(f"{path}: holds no complete checkpoint; train first or correct the path")
    where = f"{path}/{COMPLETE}"
    try:
        value = unsealed(parse_json(folder.read(COMPLETE, LARGEST), where, _FIX), where, _FIX)
        found = as_record(value, Complete, where, _FIX)
    except ArtefactError as error:
        raise ArtefactError(f"{path}: is damaged ({error})") from None
    for name in (STATE, METADATA):
        if name not in found.files:
            raise ArtefactError(f"{path}: is damaged ({COMPLETE} lists no {name})")
    if found.within is not None:
        folder = Folder.at(below(location(str(path).rpartition("/")[0]), found.within))
    return folder, found.files


def remove_checkpoint(path: Location) -> None:
    """Remove a checkpoint so that a kill in between leaves none that looks like one.

    In a store its files stay for `remove_unfinished`: another name may stand for them.
    """
    if isinstance(path, Path):
        dying = path.with_name(f".{path.name}.tmp-removed")
        path.rename(dying)
        shutil.rmtree(dying, ignore_errors=True)
    else:
        Folder.at(path).remove(COMPLETE)


def remove_unfinished(folder: Location) -> None:
    """Remove what no whole checkpoint in `folder` consists of: what a killed job left, was writing or removing."""
    if isinstance(folder, Path):
        for stale in folder.glob(".*.tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        return
    store, used = Folder.at(folder), set[str]()
    names = store.names()
    for name in names:
        if name.count("/") == 1 and name.endswith(f"/{COMPLETE}"):
            try:
                used.add(files_of(below(folder, name.rpartition("/")[0]))[0].root)
            except ArtefactError:
                return  # a damaged one: what it is made of is not known
    for name in {name.rpartition("/")[0] for name in names if name.count("/") == 2}:
        if f"{store.root}/{name}" not in used:
            store.remove_folder(name)


def verify(path: Location, world: World) -> None:
    """Compare this rank's share of the files with their recorded hashes."""
    folder, sums = files_of(path)
    for name, expected in sorted(sums.items())[world.rank :: world.size]:
        if not folder.has(name):
            raise ArtefactError(f"{path}: is damaged ({name} is missing)")
        if folder.hash(name) != expected:
            raise ArtefactError(f"{path}: is damaged ({name} is not what was written)")


def cannot_write(path: Location, error: BaseException) -> UserError:
    """The error for what went wrong on the disk while a run was writing there.

    torch.save hides the system's error behind its own; the number of free bytes tells the commonest cause all the same.
    """
    _not_an_interrupt(error)
    cause = _causes(error)[0]
    while not isinstance(cause, OSError) and (deeper := cause.__cause__ or cause.__context__):
        cause = deeper
    if isinstance(cause, PlaceError) and not isinstance(path, Path):
        return PlaceError(f"{cause}; the checkpoints before it are whole: give the same command again")
    if is_out_of_memory(cause) or not isinstance(path, Path):
        return trouble(cause, Path(path)) or OutOfMemoryError("memory ran out")
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause).splitlines()[0]
    free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free / 2**20
    return PlaceError(
        f"{path}: cannot be written ({reason}; {free:,.0f} MB free); the checkpoints before it are whole: make room, "
        "then give the same command again"
    )


def _causes(error: BaseException) -> list[BaseException]:
    return [cause for cause, _ in error.failures.values()] if isinstance(error, dcp.CheckpointException) else [error]


def _not_an_interrupt(error: BaseException) -> None:
    """Raise the interrupt that PyTorch took for an error of reading or writing."""
    if any(isinstance(cause, KeyboardInterrupt) for cause in _causes(error)):
        raise KeyboardInterrupt from None


def checkpoint_tensors(parallel: Parallel, with_optimizer: bool) -> Tree:
    """What a checkpoint holds, as a tree of tensors that share memory with the model's."""
    tensors: Tree = {"model": dict(parallel.module.state_dict())}
    if with_optimizer:
        tensors["optimizer"] = parallel.optimizer.state_dict()["state"]
        if parallel.average:
            tensors["average"] = parallel.average.tensors
    return tensors


class WeightsOnlyReader(FileSystemReader):
    """Reads the metadata with an unpickler limited to the classes a metadata file is made of, and tensors a stretch at a time."""

    def __init__(self, path: Location) -> None:
        self._folder = files_of(path)[0]
        super().__init__(str(self._folder.place))
        self.fs = self._files = HashedFiles(self._folder)  # type: ignore[assignment]  # narrower than what PyTorch calls
        self.path = str(self._folder.place)

    def _slice_file(self, file: Any, sinfo: Any) -> Any:
        """As its base class; from a store in one piece, which a tensor would be read from in many."""
        if not self._folder.is_remote or sinfo.length > STRETCH:
            return super()._slice_file(file, sinfo)
        file.seek(sinfo.offset)
        return io.BytesIO(file.read(sinfo.length))

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """As its base class, but a large tensor never lies in memory whole beside its place in the model."""
        left = []
        for item in plan.items:
            stored = self.storage_data[item.storage_index]
            if stored.length <= STRETCH or not self._stream(item, stored, planner):
                left.append(item)
        return super().read_data(replace(plan, items=left), planner)

    def _stream(self, item: ReadItem, stored: Any, planner: LoadPlanner) -> bool:
        """Copy a tensor from its file into its place; False where it does not lie there row after row."""
        with self._files.create_stream(stored.relative_path, "rb") as file:
            with FakeTensorMode():  # its shape, and where its bytes begin
                shape = torch.load(self._slice_file(file, stored), map_location="cpu", weights_only=True)
            begin = getattr(shape.untyped_storage(), "_checkpoint_offset", None)
            if begin is None or not shape.is_contiguous() or shape.storage_offset() or not shape.dim():
                return False
            row_shape, row_bytes = shape.shape[1:], shape[:1].nbytes
            first, rows = item.storage_offsets[0], item.lengths[0]
            target, together = planner.resolve_tensor(item).detach(), max(1, STRETCH // row_bytes)
            file.seek(stored.offset + begin + first * row_bytes)
            stretch = bytearray(together * row_bytes)  # the only one: each is read into the same place
            for done in range(0, rows, together):
                count = min(together, rows - done)
                if file.readinto(memoryview(stretch)[: count * row_bytes]) != count * row_bytes:
                    raise ValueError(f"{stored.relative_path} ends too early")
                read = torch.frombuffer(stretch, dtype=shape.dtype, count=count * row_bytes // shape.element_size())
                read = read.view(count, *row_shape)
                for dim in range(1, read.dim()):
                    read = read.narrow(dim, item.storage_offsets[dim], item.lengths[dim])
                target[done : done + count].copy_(read)
            planner.commit_tensor(item, target)
        return True

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """As its base class, with that unpickler."""
        metadata = _MetadataUnpickler(io.BytesIO(self._folder.read(METADATA))).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _memory_format(kind: Any, name: str) -> Any:
    """A memory format by its name: all that stands for `getattr` in metadata."""
    if kind is not _MEM_FORMAT_ENCODING or name not in _MEM_FORMAT_ENCODING.__members__:
        raise pickle.UnpicklingError(f"builtins.getattr of {kind!r} has no place in checkpoint metadata")
    return _MEM_FORMAT_ENCODING[name]


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes a metadata file of tensors is made of, by their exact names.

    A looser rule is no rule: "torch.distributed.checkpoint.filesystem" also has an `os.system`, and an entry that is not a
    tensor (`BytesStorageMetadata`) makes the loader unpickle freely.
    """

    def find_class(self, module: str, name: str) -> Any:
        if name == "PosixPath" and module.partition(".")[0] == "pathlib":
            return PosixPath  # its module's name differs between versions of Python
        if (module, name) == ("builtins", "getattr"):
            return _memory_format  # the first releases of Python 3.11 write a member of an enumeration by its name
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
