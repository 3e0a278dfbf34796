"""What goes on beside the questions: moves between tiers, prefetching, mending, tidying, measuring."""
