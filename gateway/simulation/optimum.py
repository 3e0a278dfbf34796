"""What no policy could better that brings a document to RAM only when it is asked: a bound, not a policy.

Belady's rule (keep what is asked soonest) with sizes: a document that is to be fast must have been held since it was last asked
or read, on the GPU or in RAM, which takes its size times that while. All of these together can't take more than both tiers'
size times the trace's length. The bound keeps the whiles with the best value for what they take until that is used up, wherever in
time they lie, as PFOO-L of Berger, Beckmann and Harchol-Balter, "Practical Bounds on Optimal Caching with Variable Object Sizes"
(SIGMETRICS 2018), so no schedule need reach it. Each figure is bounded by itself: no schedule need reach two of them.

A policy that prefetches is not bound by it. One that knew the future could serve nearly every question fast.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gateway.simulation.simulator import Machine, Outcome
from gateway.simulation.traces import Trace

Floats = npt.NDArray[np.floating]


def optimum(trace: Trace, machine: Machine | None = None) -> Outcome:
    """The best figures without prefetching. A wait is counted without the copy from RAM, which the GPU may spare."""
    machine = machine or Machine()
    sizes = trace.tokens * float(machine.token_bytes)
    asked = trace.events.document[~trace.events.changed]
    restore_s = machine.disk_latency_s + sizes / machine.disk_bytes_per_s + sizes / machine.ram_bytes_per_s
    document, while_s = _whiles(trace)
    size_seconds = sizes[document] * while_s
    span_s = float(trace.events.at_s[-1] - trace.events.at_s[0])
    available = sizes.sum() * (machine.ram_share + machine.gpu_share) * span_s

    def most(value: Floats) -> float:
        order = np.argsort(size_seconds / value, kind="stable")
        fits = int(np.searchsorted(np.cumsum(size_seconds[order]), available))
        return float(value[order][: fits + 1].sum())  # one more than fits: still a bound

    moved_bytes = sizes[trace.events.document].sum() - most(sizes[document])
    wait_s = restore_s[asked].sum() - most(restore_s[document])
    return Outcome(most(np.ones(len(document))) / len(asked), round(moved_bytes), float(wait_s) / len(asked))


def _whiles(trace: Trace) -> tuple[npt.NDArray[np.int64], Floats]:
    """For each question but a document's first (if it wasn't read before): its document, and the seconds since that was asked or read."""
    events = trace.events
    order = np.lexsort((np.arange(len(events.at_s)), events.document))
    document, at_s, question = events.document[order], events.at_s[order], ~events.changed[order]
    again = np.flatnonzero((document[1:] == document[:-1]) & question[1:]) + 1
    return document[again], at_s[again] - at_s[again - 1]
