"""The figures of a run survive kills and resumptions."""

import math

import pytest

from intrr_rec.runs.folder import MetricsLog
from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.runs.run_files import METRICS


def lines(run):
    return metric_lines(run / METRICS)


def test_a_line_a_record_with_nan_as_null(tmp_path):
    log = MetricsLog(tmp_path, 0, 0, 0.0)
    log.write("train", 3, 1, {"loss": 0.1234567890123, "odd": math.nan})
    log.write("valid", 3, 1, {"recall@10": 0.5})
    log.close()
    first, second = lines(tmp_path)
    assert first.pop("seconds") >= 0
    assert first == {"split": "train", "step": 3, "epoch": 1, "loss": 0.1234567890123, "odd": None}
    assert (second["split"], second["recall@10"]) == ("valid", 0.5)
    assert list((tmp_path / "tensorboard").iterdir())


def test_resuming_drops_what_will_be_measured_again(tmp_path):
    log = MetricsLog(tmp_path, 0, 0, 0.0)
    for step in (10, 20, 30):
        log.write("train", step, step // 10, {"loss": float(step)})
    log.close()
    with open(tmp_path / METRICS, "a") as handle:
        handle.write('{"split": "valid", "step": 30, "ep')  # a kill in the middle of a line
    resumed = MetricsLog(tmp_path, 2, 20, 0.0)
    resumed.write("train", 30, 3, {"loss": -1.0})
    resumed.close()
    assert [(r["step"], r["loss"]) for r in lines(tmp_path)] == [(10, 10.0), (20, 20.0), (30, -1.0)]


def test_time_goes_on_where_it_stopped(tmp_path):
    log = MetricsLog(tmp_path, 0, 0, 1000.0)
    assert log.seconds == pytest.approx(1000, abs=5)
    log.close()
