"""A rank that loads a large sharded table from a checkpoint and writes its rows as a bundle does; it says what memory that took.

Arguments: a folder to work in, and the rows of the table. Each rank writes `memory-RANK.json` there: bytes of its shard, and the
growth of its peak memory while it loaded and wrote.
"""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from intrr_rec.distributed.checkpoint.storage import checkpoint_tensors, save_checkpoint
from intrr_rec.distributed.parallelize import META, parallelize
from intrr_rec.distributed.world import join_world
from intrr_rec.io import artefact
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.registry import make_model
from intrr_rec.runs.checkpoints import Checkpoints
from intrr_rec.runs.run_files import BEST, CHECKPOINTS
from intrr_rec.serving.bundle.catalogue import Catalogue
from intrr_rec.serving.bundle.export import write_model
from tests import tiny

WIDTH, CODES = 64, (128, 128, 128)


def kilobytes(name: str) -> int:
    """A line of /proc/self/status."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def paths(rows: int) -> Tensor:
    """Unique ones: the digits of a row's number."""
    number_I, digits = torch.arange(rows), []
    for size in reversed(CODES):
        digits.append(number_I % size)
        number_I = number_I // size
    return torch.stack(digits[::-1], dim=1)


def main(folder: Path, rows: int) -> None:
    recipe = tiny.recipe(
        "train.sharding.uid=row_wise", f"model.hstu.width={WIDTH}", "model.ran.hidden=16", "model.uid_std=0.5"
    )
    with join_world() as world:
        model = make_model(recipe.model, paths(rows), CODES, None, META)
        parallel = parallelize(model, world, recipe, training=False)
        best = folder / "run" / CHECKPOINTS / BEST
        save_checkpoint(best, checkpoint_tensors(parallel, with_optimizer=False), world, {"step": 1})
        assert isinstance(parallel.model, IntRR)
        shard_bytes = sum(
            shard.tensor.nbytes for value in parallel.model.uid.state_dict().values() for shard in value.local_shards()
        )
        catalogue = Catalogue(SimpleNamespace(n_items=rows), None, None, None)  # type: ignore[arg-type]
        world.barrier()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = kilobytes("VmRSS")
        Checkpoints(folder / "run", parallel, world).load_best()
        loaded = kilobytes("VmHWM")
        draft = artefact.Draft(folder) if world.is_main else None
        write_model(draft, catalogue, parallel.model.eval(), "float32", world)
        grown = {"loading": loaded - before, "in all": kilobytes("VmHWM") - before}
        figures = {"shard": shard_bytes, **{name: 1024 * each for name, each in grown.items()}}
        (folder / f"memory-{world.rank}.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
