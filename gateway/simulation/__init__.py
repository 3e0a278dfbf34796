"""Trying cache policies on made-up traces: `traces` makes them, `simulator` runs a policy, `report` puts it together."""
