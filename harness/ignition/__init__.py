"""Ignition configs: read them, judge them by their specification, and add the harness's own access to a guest."""
