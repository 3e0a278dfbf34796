"""Speaks and wires: HTTP, tenants, configuration, the course of a question and the object graph."""
