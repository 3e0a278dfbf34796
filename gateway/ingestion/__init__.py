"""Documents become KV: read in segments, checked, swapped in; and read anew where the engine changed."""
