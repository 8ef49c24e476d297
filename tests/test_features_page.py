"""`docs/features.md`, walked as it is written: from CSV files with actions, prices and categories to a served model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

PAGE = Path(__file__).parents[1] / "docs/features.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if found == kind]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_step_of_the_page_works_as_written(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}

    def run(command: str) -> str:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    (tmp_path / "make_shop.py").write_text(blocks("python")[0])
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    served = [command for command in commands if command.startswith(("intrr serve", "curl"))]
    for command in commands:
        if command not in served:
            run(command)
    assert yaml.safe_load((tmp_path / "shop.yaml").read_text()) == yaml.safe_load(blocks("yaml")[0])
    assert len(set(pq.read_table(tmp_path / "work/lists/parts")["user_id"].to_pylist())) == 600

    server = subprocess.Popen(served[0].split(), cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            up = subprocess.run("curl -sf http://127.0.0.1:8765/readyz", shell=True, capture_output=True)
            if up.returncode == 0:
                break
            time.sleep(0.2)
        online = [item["item"] for item in json.loads(run(served[1]))["items"]]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    (tmp_path / "ask.py").write_text(
        blocks("")[0].replace("recommender.bundle.items.own(", "print(recommender.bundle.items.own(").rstrip() + ")\n"
    )
    assert run("python ask.py").strip() == str(online) and len(online) == 5
