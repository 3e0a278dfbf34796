"""What holds for every test."""

from __future__ import annotations

import gc
import os

from hypothesis import settings

# A test is no stopwatch: on a machine that does other things as well, any example may take long.
settings.register_profile("kvshelf", deadline=None)
settings.load_profile("kvshelf")

# A command's table is as wide as its test says, not as the terminal of who runs the tests, which their processes inherit.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)


def pytest_collection() -> None:
    gc.disable()  # nearly all that is imported and collected stays to the end


def pytest_collection_finish() -> None:
    """What stays is looked through once, not at every full collection: that took a quarter of the time."""
    gc.collect()
    gc.freeze()
    gc.enable()
