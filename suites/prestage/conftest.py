"""What the checks of a pre-staged disk ask of a guest."""

from __future__ import annotations

import json

import pytest

from harness.machine.guest.host import Guest

ImageNames = dict[str, str]


def images_of(guest: Guest) -> ImageNames:
    """Names of all images that podman knows, with their ids."""
    listed = json.loads(guest.check_output("podman images --all --no-trunc --format json"))
    return {name: image["Id"] for image in listed for name in image.get("Names") or ()}


@pytest.fixture(scope="session")
def discovered_images(discovered) -> ImageNames:
    """What is in container storage after discovery."""
    return images_of(discovered.guest)


@pytest.fixture(scope="session")
def installed_images(installed) -> ImageNames:
    """What is in container storage of the installed host."""
    return images_of(installed.guest)
