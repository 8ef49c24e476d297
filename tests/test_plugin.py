"""The example plug-in, installed as a package of its own: found by its names, validated like what is built in, trained with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

PLUGIN = Path(__file__).parent.parent / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process in which the plug-in is installed by pip; nothing is downloaded."""
    copy, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN, copy, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, copy], check=True, timeout=120)
    return os.environ | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}


def run(installed, *words, module="intrr_rec"):
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)], env=installed, capture_output=True, text=True, timeout=240
    )
    return done.returncode, done.stdout, done.stderr


def test_its_components_pass_the_contract_by_their_names(installed):
    code, out, err = run(installed, "hstu_released", "sampled_codes", "yoochoose_clicks", module="intrr_rec.testing")
    assert code == 0, out + err
    assert out.count("ok ") >= 15


@pytest.mark.slow
def test_a_mistyped_name_or_setting_is_refused_with_the_nearest_one(installed, tmp_path):
    train = ("train", "--dataset", tmp_path, "--semantic-ids", tmp_path, "--out", tmp_path / "run")
    code, _, err = run(installed, *train, "model.backbone=hstu_releasd")
    assert code == 2
    assert "did you mean 'hstu_released'" in err
    code, _, err = run(installed, *train, "model.backbone=hstu_released", "model.hstu_released.layer=2")
    assert code == 2
    assert "did you mean 'model.hstu_released.layers'" in err
    code, _, err = run(installed, *train, "model.backbone=hstu_released", "model.hstu_released.layers=0")
    assert code == 2
    assert "model.hstu_released.layers" in err


@pytest.mark.slow
def test_raw_logs_to_metrics_with_its_reader_quantizer_and_backbone(installed, tmp_path):
    clicks = tmp_path / "yoochoose-clicks.dat"
    with open(clicks, "w") as lines:
        for user in range(60):
            for step in range(8):
                lines.write(f"{user},2014-04-07T10:{step:02d}:{user % 60:02d}.000Z,{(user + step) % 12},0\n")
    (tmp_path / "clicks.yaml").write_text(
        f"title: clicks\ndownload: [{{url: 'file://{clicks}', tables: {{clicks.parquet: yoochoose_clicks}}}}]\n"
        "interactions: clicks.parquet\n"
    )
    vectors = tmp_path / "vectors.parquet"
    write_vectors(vectors, [str(item) for item in range(12)])
    data = ("--data", tmp_path / "data")
    assert run(installed, "fetch", tmp_path / "clicks.yaml", *data)[0] == 0
    code, _, err = run(installed, "prepare", tmp_path / "clicks.yaml", *data, "--out", tmp_path / "dataset")
    assert code == 0, err
    code, _, err = run(
        installed, "index", "--dataset", tmp_path / "dataset", "--vectors", vectors, "--out", tmp_path / "ids",
        "index.method=sampled_codes", "index.sampled_codes.draws=3", "index.levels=2", "index.codes=3", "index.dedup_codes=8",
    )  # fmt: skip
    assert code == 0, err
    settings = json.loads((tmp_path / "ids" / "manifest.json").read_text())["config"]
    assert settings["sampled_codes"] == {"draws": 3}
    small = [word for word in tiny.SMALL if ".hstu." not in word]
    code, _, err = run(
        installed, "train", "--dataset", tmp_path / "dataset", "--semantic-ids", tmp_path / "ids", "--out", tmp_path / "run",
        *small, "model.backbone=hstu_released", "model.hstu_released={layers: 1, width: 16, heads: 2}", "evaluate.beam=10",
    )  # fmt: skip
    assert code == 0, err
    assert 0 < json.loads((tmp_path / "run" / "results.json").read_text())["test"]["recall@10"] <= 1
    code, _, err = run(installed, "export", tmp_path / "run", "--out", tmp_path / "bundle")
    assert code == 0, err


@pytest.mark.slow
def test_an_artefact_of_a_plug_in_that_is_not_installed_says_so(tmp_path):
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    train = ("train", "--dataset", tmp_path, "--semantic-ids", tmp_path, "--out", tmp_path / "run")
    code, _, err = run(bare, *train, "model.backbone=hstu_released")
    assert code == 2
    assert "once its package is installed" in err


def write_vectors(path, item_ids):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    x_ID = np.random.default_rng(0).normal(size=(len(item_ids), 8)).astype(np.float32)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(x_ID.ravel()), 8)
    pq.write_table(pa.table({"item_id": pa.array(map(int, item_ids)), "embedding": embedding}), path)
