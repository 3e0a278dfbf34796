"""Decides: pure functions and values over snapshots. No await, clock, randomness, files, HTTP or logging."""
