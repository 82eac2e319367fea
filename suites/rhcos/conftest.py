"""What a profile does not promise is not asked for, nor anything of what is no disk: such checks are skipped."""

from __future__ import annotations

from typing import Any

import pytest

from harness.images.source import Image
from harness.profile import Profile


@pytest.fixture(scope="session", autouse=True)
def _only_disks(image: Image) -> None:
    """A live ISO has its own checks."""
    if image.container == "iso":
        pytest.skip(f"{image.path.name} is an ISO: pytest suites/fcos --image judges it")


@pytest.fixture(autouse=True)
def _only_what_is_promised(request: pytest.FixtureRequest) -> None:
    """`@pytest.mark.needs("ostree")`: the profile must have this part; `needs("disk.guid")`: this value in it."""
    for mark in request.node.iter_markers("needs"):
        profile: Profile = request.getfixturevalue("profile")
        for wanted in mark.args:
            value: Any = profile
            for name in wanted.split("."):
                value = getattr(value, name)
            if not value:
                pytest.skip(f"the profile {profile.name} promises nothing about {wanted}")
