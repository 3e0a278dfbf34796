"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A test is no stopwatch: on a machine that does other things as well, any example may take long.
settings.register_profile("kvshelf", deadline=None)
settings.load_profile("kvshelf")
