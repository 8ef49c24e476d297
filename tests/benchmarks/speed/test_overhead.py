"""The overhead of a step is that of a processor, and its operations are counted."""

import json
from pathlib import Path

from benchmarks.speed.overhead import SECTION, bench_overhead
from tests import tiny


def test_figures_and_the_page(tmp_path: Path) -> None:
    out, page = tmp_path / "overhead.json", tmp_path / "page.md"
    page.write_text(f"<!-- {SECTION} -->\n<!-- end of {SECTION} -->\n")
    found = bench_overhead(tiny.recipe("train.batch_users=2"), rows=100, steps=4, out=out, page=page)
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    assert 0 < found["step_ms"]["lower"] <= found["step_ms"]["median"] <= found["step_ms"]["upper"]
    deeper = bench_overhead(
        tiny.recipe("train.batch_users=2", "model.hstu.layers=5"), rows=100, steps=2, out=out, page=None
    )
    assert deeper["operations"] > found["operations"] > 100
    assert f"| {found['operations']} |" in page.read_text()
