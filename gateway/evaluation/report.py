"""The figures of an evaluation as a table, as JSON, and its curve as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Group
from rich.table import Table

from router.evaluation import Judged, Report, best_at, evaluate

RIGHT = (0.8, 0.9, 0.95)
"""Shares of right answers at which the table says how many questions would be answered."""
CONFUSED = 10


def percentile_ms(seconds: Sequence[float], share: float) -> float:
    return round(float(np.percentile(seconds, share)) * 1000, 2) if seconds else 0.0


def to_json(report: Report, seconds: Sequence[float]) -> str:
    figures = {
        name: getattr(report, name)
        for name in ("questions", "unanswerable", "top1", "top5", "answered", "answered_right", "refused_of_unanswerable")
    }
    figures |= {
        "calibration_error": report.calibration_error,
        "p50_ms": percentile_ms(seconds, 50),
        "p99_ms": percentile_ms(seconds, 99),
        "curve": [[point.threshold, point.answered, point.right, point.refused] for point in report.curve],
        "confused": [list(pair) for pair in report.confused],
    }
    return json.dumps(figures)


def to_table(judged: Sequence[Judged], report: Report, seconds: Sequence[float]) -> Group:
    """All, then by kind of question where there are kinds, then what thresholds would give, then what is mistaken for what."""
    by_kind = Table(title=f"{report.questions} questions, {report.unanswerable} of them for no document")
    for column in ("", "questions", "first", "in first five", "answered", "of these right", "foreign refused"):
        by_kind.add_column(column, justify="left" if not column else "right")
    kinds = sorted({one.kind for one in judged if one.kind})
    for kind in ("all", *kinds):
        some = [one for one in judged if kind in ("all", one.kind)]
        by_kind.add_row(kind, *_cells(evaluate(some)))
    at = Table(title="What a threshold on the score alone would give")
    for column in ("right", "answered", "foreign refused", "threshold"):
        at.add_column(column, justify="right")
    for right in RIGHT:
        if (point := best_at(report.curve, right=right)) is not None:
            at.add_row(f"{right:.0%}", f"{point.answered:.1%}", f"{point.refused:.1%}", f"{point.threshold:.3f}")
    parts = [by_kind, at]
    if report.confused:
        confused = Table(title="Most often mistaken")
        for column in ("document", "for", "times"):
            confused.add_column(column)
        for expected, first, times in report.confused[:CONFUSED]:
            confused.add_row(expected, first, str(times))
        parts.append(confused)
    said = (
        f"calibration error {report.calibration_error:.3f}; "
        f"a question took {percentile_ms(seconds, 50):.1f} ms (p50), {percentile_ms(seconds, 99):.1f} ms (p99)"
    )
    return Group(*parts, said)


def plot(report: Report, path: Path) -> None:
    """The share of right answers over the share of questions answered, with the foreign ones refused. Raises ImportError, OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    answered = [point.answered for point in report.curve]
    axes.plot(answered, [point.right for point in report.curve], label="answers that are right")
    if report.unanswerable:
        axes.plot(answered, [point.refused for point in report.curve], label="foreign questions refused")
    axes.set(xlabel="questions answered", ylabel="share", xlim=(0, 1), ylim=(0, 1.02), title="Routing at every threshold")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)


def _cells(report: Report) -> list[str]:
    known, routed = report.questions > report.unanswerable, report.answered or report.refused_of_unanswerable < 1
    return [
        str(report.questions),
        f"{report.top1:.1%}" if known else "",
        f"{report.top5:.1%}" if known else "",
        f"{report.answered:.1%}" if known else "",
        f"{report.answered_right:.1%}" if routed else "",
        f"{report.refused_of_unanswerable:.1%}" if report.unanswerable else "",
    ]
