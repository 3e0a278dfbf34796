"""Watches: every span and metric name, the dashboards and the collector's configuration."""
