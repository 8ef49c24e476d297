"""The page of `python -m benchmarks.speed scaling`: made of its JSON, never edited; sections of other measurements on it are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.tables.pictures import as_svg
from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import write_text

NAME = "scaling"
LIMIT = 1.25  # the step at the largest size beside that at the smallest: what is aimed at
START_LIMIT = 20.0  # seconds until the largest table can be trained


def write_scaling_page(figures_file: Path, docs: Path) -> Path:
    """Write `scaling.md` and `scaling.svg` into `docs`; returns the page.

    Raises:
        ArtefactError: `figures_file` is not what `python -m benchmarks.speed scaling` writes.
    """
    try:
        found = json.loads(figures_file.read_text(encoding="utf-8"))
        text, drawn = _page(found, figures_file.name), as_svg(lambda: _draw(found))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ArtefactError(
            f"{figures_file}: is not what `python -m benchmarks.speed scaling --out` writes ({type(error).__name__}: {error}); measure again"
        ) from None
    write_text(docs / f"{NAME}.svg", drawn)
    place = docs / f"{NAME}.md"
    write_text(place, text + _others(place.read_text(encoding="utf-8") if place.is_file() else ""))
    return docs / f"{NAME}.md"


def _others(text: str) -> str:
    """The sections of a page as it was that other measurements wrote, each with its heading."""
    return "".join(
        f"\n{heading}\n\n<!-- {name} -->{body}<!-- end of {name} -->\n"
        for heading, name, body in re.findall(
            r"(## [^\n]+)\n+<!-- ([^\n]+) -->(.*?)<!-- end of \2 -->", text, re.DOTALL
        )
    )


def _measured(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [size for size in found["sizes"] if "refused" not in size]


def _draw(found: dict[str, Any]) -> Figure:
    """Step and memory over the size of the catalogue; the parts of a step of one and of several ranks."""
    sizes, ranks = _measured(found), found["ranks"]
    figure = Figure(figsize=(8.4, 2.7), layout="constrained")
    step, memory, weak = figure.subplots(1, 3)
    rows = [size["rows"] for size in sizes]
    step.plot(rows, [size["step_ms"] for size in sizes], marker="o")
    step.set_ylim(bottom=0)
    step.set_ylabel("ms a step")
    memory.plot(rows, [size["peak_gb"] for size in sizes], marker="o", label="measured peak")
    memory.plot(rows, [size["before_gb"] + size["planned_gb"] for size in sizes], "x--", label="before + planned")
    memory.set_yscale("log")
    memory.set_ylabel("GiB of the process")
    memory.legend()
    for axes in (step, memory):
        axes.set_xscale("log")
        axes.set_xlabel("items")
    below = [0.0] * len(ranks)
    for name, heights in _parts(ranks).items():
        weak.bar(range(len(ranks)), heights, 0.55, bottom=below, label=name)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    weak.set_xticks(range(len(ranks)), [f"{each['ranks']} rank{'s' * (each['ranks'] > 1)}" for each in ranks])
    weak.set_ylabel("ms a step")
    weak.legend()
    return figure


def _parts(ranks: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Milliseconds of each number of ranks: what one rank takes, the exchanges timed alone, and what is left."""
    one = ranks[0]["step_ms"]
    exchanged = {
        name: [each["alone"][f"{key}_ms"] for each in ranks]
        for name, key in (("all-to-all", "all_to_all"), ("all-reduce", "all_reduce"))
    }
    rest = [
        max(0.0, each["step_ms"] - one - sum(parts)) for each, *parts in zip(ranks, *exchanged.values(), strict=True)
    ]
    return {"one rank's step": [one] * len(ranks), **exchanged, "sharing the machine": rest}


def _page(found: dict[str, Any], name: str) -> str:
    machine, recipe = found["machine"], found["recipe"]
    sizes = _measured(found)
    ratio = max(size["step_ms"] for size in sizes) / min(size["step_ms"] for size in sizes)
    kept = "within" if ratio <= LIMIT else "outside"
    quick = "within" if sizes[-1]["start_seconds"] <= START_LIMIT else "outside"
    return (
        "\n\n".join(
            [
                "# Scaling",
                f"Written by `python -m benchmarks.speed scaling`, never by hand, from `{name}`: {machine['date']}, {machine['device']}, torch "
                f"{machine['torch']}, code {machine['code']}.",
                f"```\n{found['command']}\n```",
                f"![Step, memory and parts of a step]({NAME}.svg)",
                "## The catalogue grows, the batch stays",
                f"Random Semantic IDs and full histories of {recipe['model']['window']} items, {recipe['train']['batch_users']} users a "
                f"step, the same ones for every size, their items spread over the table; {machine['threads']} thread(s), a process a size. The slowest step is {ratio:.2f} times the quickest: {kept} the "
                f"{LIMIT} aimed at. The largest table could be trained {sizes[-1]['start_seconds']:.1f} s after the model was asked for: "
                f"{quick} the {START_LIMIT:.0f} s aimed at. *Before* is the process with its Semantic IDs and batches. *Save stops* is how long training "
                "stops for a checkpoint that is written beside it, *save* how long for one that it waits for.",
                _sizes_table(found),
                "## One rank and two",
                f"Each with {found['ranks'][0]['users_a_rank']} users a step and one thread, {found['ranks'][0]['rows']:,} items. The exchanges "
                "are timed on their own as well, by as many bytes; what is left of the difference is what ranks cost each other that share "
                "caches and memory, and waiting. The estimate is the cost model of [sharding](../../docs/sharding.md), by the bandwidth measured "
                "between the ranks.",
                _ranks_table(found["ranks"]),
            ]
        )
        + "\n"
    )


def _sizes_table(found: dict[str, Any]) -> str:
    lines = [
        "| items | sharding | start, s | step, ms | before, GiB | peak, GiB | planned, GiB | save stops, s | save, s |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for size in found["sizes"]:
        if "refused" in size:
            lines.append(f"| {size['rows']:,} | refused: does not fit |{' – |' * 7}")
            continue
        figures = [f"{size[key]:,.1f}" for key in ("start_seconds", "step_ms")]
        figures += [f"{size[key]:.2f}" for key in ("before_gb", "peak_gb", "planned_gb")]
        figures += [f"{size[key]:,.2f}" for key in ("save_stops_seconds", "save_seconds")]
        lines.append(f"| {size['rows']:,} | {size['sharding']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _ranks_table(ranks: list[dict[str, Any]]) -> str:
    lines = [
        "| | " + " | ".join(f"{each['ranks']} rank{'s' * (each['ranks'] > 1)}" for each in ranks) + " |",
        "|---|" + "---:|" * len(ranks),
    ]

    def row(name: str, values: list[str]) -> None:
        lines.append(f"| {name} | {' | '.join(values)} |")

    row("step, ms", [f"{each['step_ms']:,.0f}" for each in ranks])
    row("efficiency", [f"{ranks[0]['step_ms'] / each['step_ms']:.0%}" for each in ranks])
    row("link, GB/s one way", [f"{each['link_gb_s']:.2f}" if each["link_gb_s"] else "–" for each in ranks])
    for name, key in (("all-to-all", "all_to_all"), ("all-reduce", "all_reduce")):
        row(f"{name}, MB a rank", [f"{each['modelled'][f'{key}_bytes'] / 1e6:,.1f}" for each in ranks])
        row(f"{name}, ms alone", [f"{each['alone'][f'{key}_ms']:,.1f}" for each in ranks])
        row(f"{name}, ms estimated", [f"{1e3 * each['modelled'][f'{key}_seconds']:,.1f}" for each in ranks])
    row("sharing the machine, ms", [f"{value:,.0f}" for value in _parts(ranks)["sharing the machine"]])
    return "\n".join(lines)
