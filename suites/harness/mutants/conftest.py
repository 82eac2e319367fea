"""Images to break, and the suite that judges them."""

import pytest

from harness.store import content_key
from harness.tools import run
from suites.harness.mutants.copies import Copy, Disk
from suites.harness.mutants.forks import Forks
from suites.harness.mutants.judge import judge


@pytest.fixture(scope="session")
def raw_reference(reference, store):
    """The reference disk as a raw sparse file, in the store."""

    def convert(folder):
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", reference.path, folder / "reference.raw"])

    key = content_key({"image": reference.sha256_qcow2, "as": "raw"})
    return store.entry("raw-reference", key, convert) / "reference.raw"


@pytest.fixture(scope="session")
def workshop(store):
    """Where this process breaks its copies."""
    with store.scratch("mutants") as folder:
        yield folder


@pytest.fixture(scope="session")
def forks(workshop):
    with Forks(workshop / "bytecode") as started:
        yield started


@pytest.fixture(scope="session")
def disk_to_break(raw_reference, workshop):
    return Disk(raw_reference, workshop / "mutant.raw")


@pytest.fixture(scope="session")
def file_to_break(reference, workshop):
    return Copy(reference.path, workshop / "mutant.qcow2")


@pytest.fixture
def judged(forks, tmp_path, store, reference):
    """Runs the suite on an image; with `published`, the digests of the unbroken one are given under its name.

    Without `asks` only what needs no boot, with it the checks that boot and whose names match.
    """

    def run_suite(image, *, published=False, asks=""):
        options = []
        if published:
            metadata = tmp_path / "meta.json"
            metadata.write_text(meta_json(reference, image.name))
            options = ["--metadata", metadata]
        return judge(forks, image, tmp_path / "reports", store.root, options, asks=asks)

    return run_suite


def meta_json(reference, name):
    """As coreos-assembler's meta.json tells of the unbroken file."""
    size = reference.path.stat().st_size
    digest = f'"sha256": "{reference.sha256_qcow2}", "uncompressed-sha256": "{reference.sha256_qcow2}"'
    return f'{{"images": {{"qemu": {{"path": "{name}", {digest}, "size": {size}}}}}}}'
