"""This repository's own suites: how hypothesis behaves."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The same examples everywhere, no deadlines: a slow host is not a bug. `night` looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("night", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
