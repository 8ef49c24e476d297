"""The wheel in an empty environment, used from an empty folder: nothing of the clone is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from intrr_rec.config import load_recipe
from intrr_rec.errors import ConfigError
from intrr_rec.io.shipped import find_settings

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("given", ["best", "best.yaml", "configs/best.yaml"])
def test_a_recipe_is_found_by_name_from_any_folder(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path(given)) == load_recipe(ROOT / "configs/best.yaml")
    own = tmp_path / given
    own.parent.mkdir(exist_ok=True)
    own.write_text("train: {epochs: 77}\n")
    assert load_recipe(Path(given)).train.epochs == 77, "a file of one's own comes first"


def test_a_descriptor_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_settings(Path("datasets/beauty.yaml")).read_text() == (ROOT / "datasets/beauty.yaml").read_text()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("configs/bets.yaml", "did you mean 'best'"),
        ("bets", "did you mean 'best'"),
        ("configs/zzzzzz.yaml", "there are best, best_with_times"),
        ("zzzzzz.yaml", "cannot be read"),
        ("elsewhere/best.yaml", "cannot be read"),
    ],
)
def test_what_is_nowhere_is_refused_with_what_there_is(given, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        load_recipe(Path(given))


def run(*words, cwd):
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_wheel_alone_trains_in_an_empty_environment(tmp_path):
    build = "pip wheel --quiet --no-deps --no-build-isolation --wheel-dir"
    run(sys.executable, "-m", *build.split(), tmp_path, ROOT, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python, intrr = tmp_path / "env/bin/python", tmp_path / "env/bin/intrr"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    run(python, "-m", "intrr_rec.install", "cpu", cwd=tmp_path)
    found = run(python, "-m", "pip", "list", cwd=tmp_path)
    assert (
        "cpu" in next(line for line in found.lower().splitlines() if line.startswith("fbgemm"))
        and "nvidia" not in found
    )
    assert "pytest" not in found
    work = tmp_path / "work"
    work.mkdir()
    run(intrr, "generate", "--out", "logs", cwd=work)
    prepare = "prepare --interactions logs/interactions --items logs/items --out dataset --config demo"
    run(intrr, *prepare.split(), cwd=work)
    index = "index --dataset dataset --vectors logs/vectors --out ids --config demo"
    run(intrr, *index.split(), cwd=work)
    train = "train --dataset dataset --semantic-ids ids --vectors logs/vectors --out run --config configs/demo.yaml train.epochs=1"
    run(intrr, *train.split(), cwd=work)
    assert (work / "run/results.json").is_file()
