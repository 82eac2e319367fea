"""This repository's own suites: how hypothesis behaves, and that Ctrl-C works."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# The same examples everywhere, no deadlines: a slow host is not a bug. `night` looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("night", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
# Once for each property that matters: `--hypothesis-profile=thorough --hypothesis-seed=20261121`.
settings.register_profile(
    "thorough", deadline=None, max_examples=10_000, database=None, suppress_health_check=[HealthCheck.too_slow]
)
# A shell that starts us in the background has us ignore Ctrl-C, and so would every program that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
