"""The tables of `python -m benchmarks.speed training`, for the terminal and for a page."""

from __future__ import annotations

from typing import Any

from benchmarks.speed.page import row

Cells = list[str]
HEADER = [
    "backbone, kind, form", "targets/s", "windows/s", "tokens/s", "step ms", "GFLOP a step", "of the fp32 peak", "memory GB",
]  # fmt: skip
PAPER = {"t5": 42666.7 / 24381.0, "hstu": 46545.5 / 34133.3}  # IntRR Table 2: samples a second, IntRR / flattened
PAPER_RATIO = "targets a second, IntRR / flattened, prefixes"


def tables(figures: dict[str, Any]) -> list[tuple[Cells, list[Cells]]]:
    """Header and rows of each table: the cases, their ratios, where their steps' time goes."""
    cases = figures["cases"]
    speed = [
        [
            name,
            f"{case['targets_per_second']:,.0f}",
            f"{case['windows_per_second']:,.0f}",
            f"{case['tokens_per_second']:,.0f}",
            f"{case['step_ms']:,.0f}",
            f"{case['gflop']:,.1f}",
            f"{case['share_of_gemm_peak']:.0%}",
            f"{case['model_and_step_gb']:.2f}",
        ]
        for name, case in cases.items()
    ]
    ratios = figures["ratios"]
    compared = [
        [
            name,
            *(_ratio(ratios[backbone][name], PAPER[backbone] if name == PAPER_RATIO else None) for backbone in ratios),
        ]
        for name in next(iter(ratios.values()))
    ]
    parts = next(iter(cases.values()))["breakdown_ms"]
    spent = [[part, *(f"{case['breakdown_ms'][part]:,.1f}" for case in cases.values())] for part in parts]
    return [(HEADER, speed), (["ratio", *ratios], compared), (["ms of a step", *cases], spent)]


def section(figures: dict[str, Any]) -> Cells:
    """The same as Markdown, under a line that names the machine."""
    machine, steps = figures["machine"], figures["steps"]
    peaks = [case["gemm_peak_gflops"] for case in figures["cases"].values()]
    bf16 = next(iter(figures["cases"].values()))["gemm_peak_bf16_gflops"]
    model, users = figures["recipe"]["model"], figures["recipe"]["train"]["batch_users"]
    lines = [
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, {machine.get('code', '')}: medians of "
        f"{steps} steps of {users} windows, N = {model['window']}, all cases in turn. Matrix-product peak (2048³) fp32 "
        f"{min(peaks):,.0f}–{max(peaks):,.0f} GFLOP/s; bf16 {f'{bf16:,.0f}' if bf16 else 'is only emulated here'}. Precision of "
        f"training: {figures['recipe']['train']['precision']}.",
    ]
    for header, rows in tables(figures):
        lines += ["", row(header), row(["---"] * len(header)), *map(row, rows)]
    return lines


def _ratio(value: float, paper: float | None) -> str:
    return f"{value:.2f}" + (f" (paper {paper:.2f})" if paper else "")
