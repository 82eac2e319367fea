"""A layer added to a container image is that and nothing else (facts: image-spec 1.1; `umoci repack`, as measured)."""

from hashlib import sha256

import pytest

INDEX, BLOBS = "index", "blobs"
LAYERS = ("manifest: layers", "manifest: type of the new layer")
DIFF_IDS = "config: diff_ids"
HISTORY = ("config: history", "config: the new history entry")
LAYER = "the new layer"
SCHEMAS = ("image-layout-schema", "image-index-schema", "image-manifest-schema", "config-schema")


def assert_none(differences):
    """Each is a sentence that says where it is."""
    assert not differences, "; ".join(differences)


def test_archive_is_marked_as_an_oci_layout(layering):
    assert layering.mark == {"imageLayoutVersion": "1.0.0"}


def test_index_names_one_image_by_the_name_it_had(layering):
    assert layering.names == [layering.before.tag]
    assert_none(layering.differences(INDEX))


def test_every_blob_is_there_and_what_it_is_named_by(layering):
    """Digest, size, packing; nothing lies there that no document names but the base's manifest and config."""
    assert_none(layering.differences(BLOBS))


def test_manifest_has_one_layer_more_on_those_of_the_base(layering):
    assert_none(layering.differences(*LAYERS))


def test_config_has_one_diff_id_more_on_those_of_the_base(layering):
    assert_none(layering.differences(DIFF_IDS))


def test_history_tells_of_one_layer_more(layering):
    """One entry that is not marked as empty, and as many of those as there are layers."""
    assert_none(layering.differences(*HISTORY))


def test_nothing_else_of_the_image_has_changed(layering):
    assert_none(layering.differences_elsewhere(INDEX, BLOBS, *LAYERS, DIFF_IDS, *HISTORY, LAYER))


def test_diff_ids_are_the_digests_of_what_the_layers_unpack_to(layering):
    assert layering.unpacked == list(layering.after.diff_ids)


def test_new_layer_has_the_files_that_were_asked_for_and_no_others(layering):
    assert_none(layering.differences(LAYER))
    assert layering.found == layering.asked


def test_same_layer_at_the_same_time_makes_the_same_archive(layering):
    if layering.again is None:
        pytest.skip("how and when the layer was added is not known")
    first, second = (sha256(path.read_bytes()).hexdigest() for path in (layering.layered.path, layering.again()))
    assert second == first, f"made again, the archive has the SHA-256 {second} instead of {first}"


@pytest.mark.parametrize("schema", SCHEMAS)
def test_documents_are_what_the_schemas_of_oci_ask_for(layering, oci_schemas, schema):
    errors = oci_schemas[schema].iter_errors(layering.documents[schema])
    assert [f"{error.json_path}: {error.message}" for error in errors] == []
