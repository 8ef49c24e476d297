"""Checkpoints: whole or absent, true to the last bit, and never a way to run somebody else's code."""

import contextlib
import os
import pickle
from itertools import islice

import pytest
import torch
from torch.distributed.checkpoint import filesystem, metadata

from intrr_rec.distributed.checkpoint import storage as checkpoint
from intrr_rec.distributed.checkpoint.storage import checkpoint_tensors, load_checkpoint, save_checkpoint
from intrr_rec.distributed.world import join_world
from intrr_rec.errors import ArtefactError, PlaceError
from intrr_rec.io.artefact import COMPLETE, file_hash
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.training.trainer import Trainer
from tests import tiny
from tests.sealing import write_sealed


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.fixture
def world():
    with join_world() as joined:
        yield joined


@pytest.fixture
def make_run(line, world, tmp_path):
    """Runs by their overrides; each further one is another model."""
    made = []

    def make(*overrides, steps=0):
        seed = f"train.seed={len(made)}"
        run = Trainer(open_inputs(tiny.recipe(seed, *overrides), **line.inputs()), tmp_path / f"run{len(made)}", world)
        made.append(run)
        for parts in islice(run.loader.epoch(1), steps):
            run.step(*parts)
        return run

    yield make
    for run in made:
        run.figures.close()


def save(path, run, world, state, *, with_optimizer):
    save_checkpoint(path, checkpoint_tensors(run.parallel, with_optimizer), world, state)


def tensors(run):
    """Every tensor of model and optimizer by name."""
    flat = {f"model.{name}": value for name, value in run.parallel.module.state_dict().items()}
    for parameter, state in run.parallel.optimizer.state_dict()["state"].items():
        flat |= {f"optimizer.{parameter}.{name}": value for name, value in state.items()}
    local = {k: v.local_shards()[0].tensor if hasattr(v, "local_shards") else v for k, v in flat.items()}
    return {name: value.detach().clone() for name, value in local.items()}


def assert_same(ours, others):
    assert list(ours) == list(others)
    assert [name for name in ours if not torch.equal(ours[name], others[name])] == []


@pytest.mark.parametrize("sharding", ["data_parallel", "row_wise"])
def test_model_and_optimizer_come_back_to_the_bit_and_go_on_alike(make_run, world, tmp_path, sharding):
    run, other = (make_run(f"train.sharding.uid={sharding}", steps=steps) for steps in (3, 1))
    save(tmp_path / "saved", run, world, {"epoch": 3}, with_optimizer=True)
    before = tensors(run)
    assert any(not torch.equal(before[name], value) for name, value in tensors(other).items())
    assert sum(name.startswith("optimizer.") for name in before) > 20
    assert load_checkpoint(tmp_path / "saved", other.parallel, world, with_optimizer=True) == {"epoch": 3}
    assert_same(tensors(other), before)
    (batch,) = next(run.loader.epoch(2))
    for each in (run, other):
        each.step(batch)
    assert_same(tensors(other), tensors(run))
    assert not torch.equal(tensors(run)["model.ran.signal.weight"], before["model.ran.signal.weight"])


def test_loads_into_an_optimizer_that_has_not_stepped(make_run, world, tmp_path):
    run, fresh = make_run(steps=2), make_run()
    save(tmp_path / "saved", run, world, {}, with_optimizer=True)
    load_checkpoint(tmp_path / "saved", fresh.parallel, world, with_optimizer=True)
    assert_same(tensors(fresh), tensors(run))


def test_without_the_optimizer_only_the_model_is_saved(make_run, world, tmp_path):
    run, other = make_run(steps=2), make_run(steps=1)
    optimizer = {name: value for name, value in tensors(other).items() if name.startswith("optimizer.")}
    save(tmp_path / "saved", run, world, {}, with_optimizer=False)
    load_checkpoint(tmp_path / "saved", other.parallel, world, with_optimizer=False)
    ours = {name: value for name, value in tensors(run).items() if name.startswith("model.")}
    assert_same(tensors(other), ours | optimizer)


def test_an_absent_checkpoint_is_named(make_run, world, tmp_path):
    with pytest.raises(ArtefactError, match="nowhere: holds no complete checkpoint"):
        load_checkpoint(tmp_path / "nowhere", make_run().parallel, world, with_optimizer=False)


def test_another_models_checkpoint_is_refused(make_run, world, tmp_path):
    save(tmp_path / "saved", make_run(), world, {}, with_optimizer=False)
    for other in ("model.hstu.width=8", "model.hstu.layers=3"):
        with pytest.raises(ArtefactError, match="does not fit this model"):
            load_checkpoint(tmp_path / "saved", make_run(other).parallel, world, with_optimizer=False)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "state.json", "complete.json"])
@pytest.mark.parametrize("damage", ["cut short", "one bit", "removed"])
def test_a_damaged_file_is_refused(make_run, world, tmp_path, name, damage):
    run = make_run()
    save(tmp_path / "saved", run, world, {"epoch": 1}, with_optimizer=False)
    file = tmp_path / "saved" / name
    whole = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        middle = len(whole) // 2
        file.write_bytes(
            whole[:middle] + (b"" if damage == "cut short" else bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        )
    says = "no complete checkpoint" if (name, damage) == ("complete.json", "removed") else "is damaged"
    with pytest.raises(ArtefactError, match=f"saved: .*{says}"):
        load_checkpoint(tmp_path / "saved", run.parallel, world, with_optimizer=False)


def fail_before_publishing(monkeypatch, error, keep_staging):
    """The save dies with everything written but nothing swapped; a kill also leaves the staging folder behind."""

    def die(*_):
        raise error

    monkeypatch.setattr(checkpoint, "swap_into_place", die)
    if keep_staging:
        monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)


@pytest.mark.parametrize("killed", [True, False])
def test_dying_in_the_middle_of_a_save_leaves_the_previous_checkpoint(make_run, world, tmp_path, monkeypatch, killed):
    run = make_run(steps=1)
    folder = tmp_path / "checkpoints"
    save(folder / "last", run, world, {"epoch": 1}, with_optimizer=True)
    before = tensors(run)
    run.step(*next(run.loader.epoch(2)))
    with monkeypatch.context() as patch:
        fail_before_publishing(patch, OSError("disk full"), keep_staging=killed)
        with pytest.raises(PlaceError, match=r"last: cannot be written \(disk full; .* MB free\)"):
            save(folder / "last", run, world, {"epoch": 2}, with_optimizer=True)
    assert len(list(folder.iterdir())) == (2 if killed else 1)
    assert load_checkpoint(folder / "last", run.parallel, world, with_optimizer=True) == {"epoch": 1}
    assert_same(tensors(run), before)
    save(folder / "last", run, world, {"epoch": 2}, with_optimizer=True)
    assert load_checkpoint(folder / "last", run.parallel, world, with_optimizer=True) == {"epoch": 2}
    assert [path.name for path in folder.iterdir()] == ["last"]


def sign(saved):
    """Record the files as they are now, as somebody would who means to deceive."""
    files = {path.name: file_hash(path) for path in saved.iterdir() if path.name != COMPLETE}
    write_sealed(saved / COMPLETE, {"checkpoint_schema": 2, "files": files})


def call_pickled(module, name, argument):
    """A pickle that calls `module.name(argument)`; protocol 4, whose names may have dots."""

    def text(words):
        return pickle.SHORT_BINUNICODE + bytes([len(words)]) + words.encode()

    return (
        pickle.PROTO + b"\x04" + text(module) + text(name) + pickle.STACK_GLOBAL
        + text(argument) + pickle.TUPLE1 + pickle.REDUCE + pickle.STOP
    )  # fmt: skip


ROUTES = [
    ("os", "system"),
    ("builtins", "eval"),
    ("torch.distributed.checkpoint.filesystem", "os.system"),
    ("torch.distributed.checkpoint.filesystem", "pickle.os.system"),
    ("torch.distributed.checkpoint.metadata", "os.system"),
    ("torch", "os.system"),
    ("torch", "hub.os.system"),
]


@pytest.mark.parametrize(("module", "name"), ROUTES)
def test_metadata_that_calls_a_function_is_refused_unrun(make_run, world, tmp_path, module, name):
    run, trace = make_run(), tmp_path / "trace"
    save(tmp_path / "saved", run, world, {}, with_optimizer=False)
    command = f"open('{trace}','w')" if name == "eval" else f"touch {trace}"
    payload = call_pickled(module, name, command)
    with contextlib.suppress(Exception):
        pickle.loads(payload)
    reachable = trace.exists()  # the payload is a real one wherever the module happens to hold that name
    trace.unlink(missing_ok=True)
    (tmp_path / "saved" / ".metadata").write_bytes(payload)
    sign(tmp_path / "saved")
    with pytest.raises(ArtefactError, match="no place in checkpoint metadata"):
        load_checkpoint(tmp_path / "saved", run.parallel, world, with_optimizer=False)
    assert not trace.exists()
    if (module, name) in ROUTES[:3]:
        assert reachable


class Toucher:
    """Unpickling it creates a file."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_a_tensor_relabelled_as_an_object_is_refused_unrun(make_run, world, tmp_path):
    """The format lets an entry be any pickled object, in a data file: ours holds tensors only."""
    run, trace, saved = make_run(), tmp_path / "trace", tmp_path / "saved"
    save(saved, run, world, {}, with_optimizer=False)
    honest = pickle.loads((saved / ".metadata").read_bytes())
    torch.save(Toucher(trace), saved / "evil.distcp")
    size = (saved / "evil.distcp").stat().st_size
    for key in honest.state_dict_metadata:
        honest.state_dict_metadata[key] = metadata.BytesStorageMetadata()
        honest.storage_data[metadata.MetadataIndex(key)] = filesystem._StorageInfo("evil.distcp", 0, size)
    (saved / ".metadata").write_bytes(pickle.dumps(honest))
    sign(saved)
    with pytest.raises(ArtefactError, match="BytesStorageMetadata has no place"):
        load_checkpoint(saved, run.parallel, world, with_optimizer=False)
    assert not trace.exists()


class ByName:
    """Pickled as `getattr(owner, name)`: what the first releases of Python 3.11 make of a member of an enumeration."""

    def __init__(self, owner, name):
        self.words = owner, name

    def __reduce__(self):
        return getattr, self.words


def test_metadata_as_early_python_3_11_writes_it_is_read_and_other_attributes_are_not(make_run, world, tmp_path):
    run, saved = make_run(steps=1), tmp_path / "saved"
    save(saved, run, world, {"epoch": 1}, with_optimizer=True)
    whole = (saved / ".metadata").read_bytes()
    written = pickle.loads(whole)
    for entry in written.state_dict_metadata.values():
        member = metadata._MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT
        # The slot that `TensorProperties.__getstate__` fills with the member itself.
        plain, by_name = entry.properties, ByName(metadata._MEM_FORMAT_ENCODING, member.name)
        entry.properties = Restated(plain, by_name)
    (saved / ".metadata").write_bytes(pickle.dumps(written))
    assert b"getattr" in (saved / ".metadata").read_bytes()
    sign(saved)
    assert load_checkpoint(saved, run.parallel, world, with_optimizer=True) == {"epoch": 1}
    for owner, name in ((metadata.Metadata, "__init__"), (metadata._MEM_FORMAT_ENCODING, "__class__")):
        (saved / ".metadata").write_bytes(pickle.dumps([ByName(owner, name)]))
        sign(saved)
        with pytest.raises(ArtefactError, match="getattr of"):
            load_checkpoint(saved, run.parallel, world, with_optimizer=True)


class Restated:
    """Pickled as `properties`, but for their memory format, in whose stead `by_name` is pickled."""

    def __init__(self, properties, by_name):
        self.properties, self.by_name = properties, by_name

    def __reduce__(self):
        state = [
            self.by_name if isinstance(part, metadata._MEM_FORMAT_ENCODING) else part
            for part in self.properties.__getstate__()
        ]
        return metadata.TensorProperties, (), tuple(state)


def test_a_tensor_read_a_stretch_at_a_time_is_the_tensor_read_whole(make_run, world, tmp_path, monkeypatch):
    run = make_run(steps=2)
    save(tmp_path / "checkpoint", run, world, {}, with_optimizer=True)
    saved, other = tensors(run), make_run(steps=1)
    monkeypatch.setattr(checkpoint, "STRETCH", 100)
    streamed: list[bool] = []
    stream = checkpoint.WeightsOnlyReader._stream
    monkeypatch.setattr(
        checkpoint.WeightsOnlyReader, "_stream", lambda *words: streamed.append(stream(*words)) or streamed[-1]
    )
    load_checkpoint(tmp_path / "checkpoint", other.parallel, world, with_optimizer=True)
    assert sum(streamed) > 10
    found = tensors(other)
    assert found.keys() == saved.keys() and all(torch.equal(found[name], saved[name]) for name in saved)
