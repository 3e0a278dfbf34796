"""Stand-ins with the contract of the real ones, checked by the same tests. Faults are inputs to them."""
