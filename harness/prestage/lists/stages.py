"""Which stage of an installation needs an image, by what the image is.

The rule is that of factory-precaching-cli (cmd/download.go); the telco labs' create-ai-list.sh has the same operators:
all images of a release are needed to install, fourteen of them already in discovery, when the first node bootstraps
the cluster; so is the release image. assisted-installer's own images belong to discovery, but its controller, which is
called reporter downstream, goes on in the installed cluster.
"""

from __future__ import annotations

from enum import StrEnum

from harness.prestage.lists.reference import Reference

BOOTSTRAP = frozenset(
    (
        "cloud-credential-operator",
        "cluster-bootstrap",
        "cluster-config-operator",
        "cluster-etcd-operator",
        "cluster-ingress-operator",
        "cluster-kube-apiserver-operator",
        "cluster-kube-controller-manager-operator",
        "cluster-kube-scheduler-operator",
        "cluster-policy-controller",
        "etcd",
        "hyperkube",
        "machine-config-operator",
        "must-gather",
        "pod",
    )
)
ASSISTED = "assisted-installer"
CONTROLLERS = ("assisted-installer-reporter", "assisted-installer-controller")


class Stage(StrEnum):
    """When an image is needed: by the live system that registers the host, or by the installed system."""

    DISCOVERY = "discovery"
    INSTALL = "install"


Stages = frozenset[Stage]
BOTH: Stages = frozenset(Stage)
DISCOVERY: Stages = frozenset((Stage.DISCOVERY,))
INSTALL: Stages = frozenset((Stage.INSTALL,))


def stages_of(reference: Reference, name: str = "", *, is_release: bool = False) -> Stages:
    """The stages of an image by its repository and, where its list says them, what it is and its operator's name."""
    if is_release or is_release_image(reference) or reference.basename.startswith(CONTROLLERS):
        return BOTH
    if reference.basename.startswith(ASSISTED):
        return DISCOVERY
    return BOTH if name in BOOTSTRAP else INSTALL


def is_release_image(reference: Reference) -> bool:
    """Whether it is the image that describes a release; `release-images` is oc-mirror's name for it."""
    return reference.basename.startswith("ocp-release") or reference.basename == "release-images"


def is_agent(reference: Reference) -> bool:
    """Whether it is of assisted-installer and for discovery alone: only a list of that stage names such an image."""
    return stages_of(reference) == DISCOVERY
