"""The advice on mismatched installations, and one real examination."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from intrr_rec.doctor import Installation, find_faults

CPU = Installation("2.13.0+cpu", "1.8.0", None, "1.8.0", driver=False, torch_cuda=False)
CUDA = Installation("2.13.0", None, "1.8.0", "1.8.0", driver=True, torch_cuda=True)


@pytest.mark.parametrize(
    "sound",
    [
        CPU,
        CUDA,
        replace(CPU, torch="2.13.0", torch_cuda=True),  # a CUDA torch where there is no driver: works as a CPU one
        replace(CUDA, torch="2.14.1", fbgemm_cuda="1.9.0", torchrec="1.9.0"),
    ],
)
def test_matching_installations_have_no_faults(sound: Installation) -> None:
    assert find_faults(sound) == []


@pytest.mark.parametrize(
    ("found", "says", "fix"),
    [
        (replace(CPU, torch=None), "torch is not installed", "pip install --no-deps torch==2.13.0"),
        (replace(CPU, torch="2.9.1"), "2.9.1", "python -m intrr_rec.install cpu"),
        (replace(CUDA, torch="2.9.1"), "2.9.1", "python -m intrr_rec.install cuda"),
        (replace(CPU, fbgemm_cpu=None), "fbgemm is not installed", "pip install --no-deps fbgemm-gpu-cpu==1.8.0"),
        (replace(CUDA, fbgemm_cuda=None), "fbgemm is not installed", "pip install --no-deps fbgemm-gpu==1.8.0"),
        (replace(CPU, fbgemm_cpu="1.9.0"), "does not fit", "pip install --no-deps fbgemm-gpu-cpu==1.8.0"),
        (replace(CPU, torchrec="1.9.0"), "does not fit", "pip install --no-deps torchrec==1.8.0"),
        (replace(CPU, torchrec=None), "torchrec is not installed", "pip install --no-deps torchrec==1.8.0"),
        (
            replace(CPU, fbgemm_cpu=None, fbgemm_cuda="1.8.0"),
            "needs an NVIDIA driver",
            "pip uninstall -y fbgemm-gpu && pip install --no-deps fbgemm-gpu-cpu==1.8.0",
        ),
        (
            replace(CUDA, fbgemm_cuda=None, fbgemm_cpu="1.8.0"),
            "stay on the CPU",
            "pip uninstall -y fbgemm-gpu-cpu && pip install --no-deps fbgemm-gpu==1.8.0",
        ),
        (
            replace(CPU, fbgemm_cuda="1.8.0"),
            "both builds",
            "pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && pip install --no-deps fbgemm-gpu-cpu==1.8.0",
        ),
        (replace(CPU, driver=True), "CPU build", "python -m intrr_rec.install cuda"),
    ],
)
def test_each_fault_names_its_fix(found: Installation, says: str, fix: str) -> None:
    faults = find_faults(found)
    assert [fault.fix for fault in faults] == [fix]
    assert says in faults[0].what


def test_a_new_torch_minor_moves_both_companions() -> None:
    fixes = [fault.fix for fault in find_faults(replace(CPU, torch="2.14.0+cpu"))]
    assert fixes == ["pip install --no-deps fbgemm-gpu-cpu==1.9.0", "pip install --no-deps torchrec==1.9.0"]


@pytest.mark.slow
def test_this_installation_is_examined_for_real() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "intrr_rec", "doctor"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sharded lookup" in done.stdout and "exact" in done.stdout
    assert done.stderr == ""
