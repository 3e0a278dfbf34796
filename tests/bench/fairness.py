"""What a tenant who asks now and then waits beside one who has fifty questions under way: with the queue, and first come first served.

The queue is the gateway's own; engine and time are simulated (`tests/fakes/simulated.py`), so the figures are the same on any machine.
`in the engine`: as many questions as there are go to the engine, which serves them as they came.
"""

from __future__ import annotations

import asyncio

import structlog

from tests.bench import measure
from tests.fakes.crowd import FLOOD, PROMPT, WARM, Figures, FirstCome, Kind, figures
from tests.fakes.simulated import p

QUESTIONS = 200
FLOODS = {"warm": WARM, "warm, short answers": Kind(generate=4), "cold": Kind(compute=PROMPT)}


async def run() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    await asyncio.to_thread(_show)  # the simulation has a loop of its own


def _show() -> None:
    for reading in (False, True):
        alone = figures(None, reading=reading, questions=QUESTIONS)
        rows = [_row("alone", alone, alone)]
        for name, flood in FLOODS.items():
            for how, found in (
                ("fair", figures(flood, reading=reading, questions=QUESTIONS)),
                ("first come", figures(flood, turns=FirstCome, reading=reading, questions=QUESTIONS)),
                ("in the engine", figures(flood, turns=FirstCome, at_once=2 * FLOOD, reading=reading, questions=QUESTIONS)),
            ):
                rows.append(_row(f"{name}: {how}", found, alone))
        title = f"Time to first token of {QUESTIONS} warm questions beside {FLOOD} at once of another tenant's"
        measure.show(
            title + (", while documents are read" if reading else ""),
            ["beside", "p50, s", "p95, s", "p50 × alone", "p95 × alone", "answers/s"],
            rows,
        )


def _row(name: str, found: Figures, alone: Figures) -> list[str]:
    p50, p95 = (p(share, found.first_token_s) for share in (0.5, 0.95))
    ratios = p50 / p(0.5, alone.first_token_s), p95 / p(0.95, alone.first_token_s)
    return [
        name,
        f"{p50:.2f}",
        f"{p95:.2f}",
        *(f"{ratio:.1f}" for ratio in ratios),
        f"{found.heavy_a_second:.2f}" if found.heavy_a_second else "",
    ]
