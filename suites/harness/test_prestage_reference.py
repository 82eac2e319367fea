"""Pull specs: read, written back, named as archives, and refused in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BadInput
from harness.prestage.lists.reference import Reference, is_archive_name, meant_by

HEX = "fe8d01e2de1a04428b2dfd71711a6893ea84ad22890ea29ca92185705fc11f48"
ART = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"

hosts = st.sampled_from(["quay.io", "localhost", "localhost:5000", "registry.redhat.io:443", "[::1]:5000"])
parts = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)*", fullmatch=True).filter(lambda part: len(part) < 40)
names = st.builds("/".join, st.lists(parts, min_size=1, max_size=3))
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}", fullmatch=True)
digests = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
references = st.builds(Reference, hosts, names, tags) | st.builds(Reference, hosts, names, digest=digests)


@given(references)
def test_what_is_written_is_read_again(reference):
    assert Reference.parse(str(reference)) == reference


@given(references)
def test_archive_is_one_file_name_and_tells_its_pull_spec(reference):
    assert not set("/: \t\n") & set(reference.archive)
    assert is_archive_name(f"{reference.name}.tgz")
    if reference.digest:
        assert meant_by(
            f"{reference.registry}/{reference.repository}".rpartition("/")[0] + "/" + reference.archive
        ) == (reference)


@given(st.text(max_size=600))
def test_any_text_is_read_or_refused(text):
    said = text
    try:
        said = str(Reference.parse(text))
    except BadInput as refused:
        said = text if "\n" not in str(refused) else "several lines"
    assert said == text


@pytest.mark.parametrize(
    "pull_spec, archive",
    [
        (f"{ART}@sha256:{HEX}", f"ocp-v4.0-art-dev@sha256_{HEX}"),
        ("quay.io/edge-infrastructure/assisted-installer-agent:latest", "assisted-installer-agent_latest"),
        ("registry.redhat.io/a/assisted-installer-agent-rhel8:v1.0.0-89", "assisted-installer-agent-rhel8_v1.0.0-89"),
        ("localhost:5000/pod:1", "pod_1"),
    ],
)
def test_archive_is_called_as_the_labs_scripts_call_it(pull_spec, archive):
    assert Reference.parse(pull_spec).archive == archive


@pytest.mark.parametrize(
    "text, what",
    [
        ("", "is empty"),
        (f"{ART}@sha256:{HEX[1:]}", "has a digest of 63 characters, a SHA-256 has 64"),
        (f"{ART}@sha256:{HEX}0", "has a digest of 65 characters, a SHA-256 has 64"),
        (f"{ART}@sha256:{HEX.upper()}", "has a digest in capital letters"),
        (f"{ART}@sha256:{HEX[1:]}x", "has a digest with characters that are not hexadecimal"),
        (f"{ART}@sha512:{HEX}", "has a digest that does not begin with sha256: ('sha512')"),
        (f"{ART}@sha256:", "has a digest of 0 characters, a SHA-256 has 64"),
        (f"{ART}:tag@sha256:{HEX}", "has a tag and a digest"),
        (ART, "has neither tag nor digest"),
        (f"docker://{ART}:1", "is a URL or has a transport"),
        ("openshift/pod:1", "names no registry"),
        ("pod", "names no registry"),
        ("quay.io/OpenShift/pod:1", "has capital letters in its name"),
        ("quay.io//pod:1", "is not a pull spec"),
        (f"quay.io/{'a' * 600}:1", "is longer than 512 characters"),
        (f"quay.io/{'a' * 250}:1", "gives an archive a name of more than 240 bytes"),
    ],
)
def test_refusal_says_what_is_wrong(text, what):
    with pytest.raises(BadInput) as refused:
        Reference.parse(text)
    assert refused.value.what == what


@pytest.mark.parametrize(
    "archive, meant",
    [
        (f"{ART}@sha256_{HEX}.tgz", f"{ART}@sha256:{HEX}"),
        (f"{ART}@sha256_{HEX}", f"{ART}@sha256:{HEX}"),
        ("quay.io/edge/assisted-installer_latest.tgz", "quay.io/edge/assisted-installer:latest"),
        (f"ocp-v4.0-art-dev@sha256_{HEX}.tgz", None),
        (f"{ART}@sha256_1234.tgz", None),
    ],
)
def test_name_of_an_archive_tells_what_was_meant(archive, meant):
    found = meant_by(archive)
    assert (is_archive_name(archive), found and str(found)) == (True, meant)
