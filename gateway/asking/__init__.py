"""One question's way through: its tiers, its worker, its answer."""
