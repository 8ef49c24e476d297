"""`intrr doctor`: what is installed, whether it fits together, and the exact line that fixes what does not.

The three libraries that must match are torch, fbgemm and torchrec: one torch minor goes with one fbgemm minor and one
torchrec minor, and fbgemm comes as a CPU and a CUDA package that exclude each other.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import logging
import os
import platform
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from intrr_rec.io.disk.places import is_out_of_memory

# torch minor → the fbgemm and torchrec minor built for it.
COMPANIONS = {"2.13": "1.8", "2.14": "1.9"}
LOCKED_TORCH = "2.13.0"


@dataclass(frozen=True)
class Installation:
    """The facts that decide whether the libraries fit; a version is None where the package is absent."""

    torch: str | None
    fbgemm_cpu: str | None
    fbgemm_cuda: str | None
    torchrec: str | None
    driver: bool
    """Whether the NVIDIA driver's library loads, without which fbgemm's CUDA build cannot be imported."""
    torch_cuda: bool
    """Whether torch is built for CUDA."""


@dataclass(frozen=True)
class Fault:
    """One thing that is off, and the command that fixes it."""

    what: str
    fix: str


def find_faults(found: Installation) -> list[Fault]:
    """Everything about the installed versions that cannot work, in the order in which to fix it."""
    if found.torch is None:
        return [Fault("torch is not installed", _install(f"torch=={LOCKED_TORCH}"))]
    companion = COMPANIONS.get(_minor(found.torch))
    if companion is None:
        known = ", ".join(COMPANIONS)
        return [Fault(f"torch {found.torch} is none of {known}, so no fbgemm is known for it", _stack(found.driver))]
    cuda = found.driver and found.torch_cuda
    right, wrong = ("fbgemm-gpu", "fbgemm-gpu-cpu") if cuda else ("fbgemm-gpu-cpu", "fbgemm-gpu")
    version, other = (found.fbgemm_cuda, found.fbgemm_cpu) if cuda else (found.fbgemm_cpu, found.fbgemm_cuda)
    faults = []
    if found.driver and not found.torch_cuda:
        faults.append(Fault(f"an NVIDIA driver is here, but torch {found.torch} is a CPU build", _stack(cuda=True)))
    install_fbgemm = _install(f"{right}=={companion}.0")
    if other is not None:
        why = "both builds of fbgemm are installed" if version else f"{wrong} {other} is installed"
        reason = "the tables would stay on the CPU" if cuda else "it needs an NVIDIA driver and a CUDA build of torch"
        # Both builds share one folder, so removing one breaks the other: install the right one anew.
        remove = f"pip uninstall -y {wrong} {right} && " if version else f"pip uninstall -y {wrong} && "
        faults.append(Fault(f"{why}, {wrong} is wrong here: {reason}", remove + install_fbgemm))
    elif version is None:
        faults.append(Fault("fbgemm is not installed", install_fbgemm))
    elif _minor(version) != companion:
        faults.append(Fault(f"{right} {version} does not fit torch {found.torch}", install_fbgemm))
    if found.torchrec is None:
        faults.append(Fault("torchrec is not installed", _install(f"torchrec=={companion}.0")))
    elif _minor(found.torchrec) != companion:
        faults.append(
            Fault(f"torchrec {found.torchrec} does not fit torch {found.torch}", _install(f"torchrec=={companion}.0"))
        )
    return faults


def diagnose() -> int:
    """Print versions, device, threads and the outcome of a sharded lookup; 0 if all is well, else 1."""
    logging.disable(logging.WARNING)  # the libraries' chatter would bury the table
    console = Console()
    torch_cuda, torch_fault = _probe_torch()
    found = Installation(
        torch=_version("torch"),
        fbgemm_cpu=_version("fbgemm-gpu-cpu"),
        fbgemm_cuda=_version("fbgemm-gpu"),
        torchrec=_version("torchrec"),
        driver=_has_driver(),
        torch_cuda=torch_cuda,
    )
    table = Table("part", "found", title="intrr doctor", title_justify="left")
    table.add_row("Python", platform.python_version())
    table.add_row("torch", found.torch or "absent")
    table.add_row("fbgemm, CPU build", found.fbgemm_cpu or "absent")
    table.add_row("fbgemm, CUDA build", found.fbgemm_cuda or "absent")
    table.add_row("torchrec", found.torchrec or "absent")
    table.add_row("NVIDIA driver", "present" if found.driver else "absent")

    faults = find_faults(found)
    if torch_fault and found.torch:
        faults.insert(0, torch_fault)
    if not torch_fault:
        table.add_row("device", _device_name())
        table.add_row("threads", _threads())
    if not faults:
        try:
            table.add_row("sharded lookup", sharded_lookup())
        except Exception as error:  # whatever the libraries raise is the finding
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            table.add_row("sharded lookup", "failed")
            faults.append(Fault(f"the sharded lookup failed: {type(error).__name__}: {reason}", _stack(found.driver)))
    console.print(table)
    for fault in faults:
        console.print(f"✗ {fault.what}\n  fix: {fault.fix}", style="red", markup=False, soft_wrap=True)
    if not faults:
        console.print("✓ all is well", style="green")
    return 1 if faults else 0


def sharded_lookup() -> str:
    """Look ids up in a row-wise sharded table and compare with its rows.

    Raises:
        RuntimeError: a row that came back differs from the table's.
    """
    import torch
    import torch.distributed as dist
    from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingEnv, ShardingPlan

    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    rows, width = 16, 8
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        config = EmbeddingConfig(name="item", embedding_dim=width, num_embeddings=rows, feature_names=["item"])
        tables = EmbeddingCollection(tables=[config], device=torch.device("meta"))
        sharders = [EmbeddingCollectionSharder()]
        plan = construct_module_sharding_plan(
            tables,
            {"item": row_wise(compute_kernel="fused")},
            sharders[0],
            local_size=1,
            world_size=1,
            device_type=device.type,
        )
        model = DistributedModelParallel(
            tables,
            env=ShardingEnv.from_process_group(dist.group.WORLD),
            device=device,
            plan=ShardingPlan({"": plan}),
            sharders=sharders,
        )
        ids = torch.tensor([3, 15, 0, 3], device=device)
        # One id a "sample": on a CPU some kernels of an EmbeddingCollection pool what shares a sample.
        features = KeyedJaggedTensor(keys=["item"], values=ids, lengths=torch.ones_like(ids, dtype=torch.int32))
        got = model(features).wait()["item"].values()
        weight = model.state_dict()["embeddings.item.weight"].local_shards()[0].tensor
        if not torch.equal(got, weight[ids]):
            raise RuntimeError("the rows that came back are not the table's")
    finally:
        dist.destroy_process_group()
    return f"exact ({backend}, row-wise, {rows} × {width})"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _install(requirement: str) -> str:
    return f"pip install --no-deps {requirement}"


def _stack(cuda: bool) -> str:
    return f"python -m intrr_rec.install {'cuda' if cuda else 'cpu'}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _probe_torch() -> tuple[bool, Fault | None]:
    try:
        import torch
    except (ImportError, OSError) as error:
        if is_out_of_memory(error):
            raise  # the installation is not to blame
        fix = "python -m intrr_rec.install cpu"
        return True, Fault(f"torch does not start: {str(error).splitlines()[0]}", fix)
    return torch.version.cuda is not None, None


def _device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"CPU, {os.cpu_count()} cores"


def _threads() -> str:
    import torch

    return f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')})"
