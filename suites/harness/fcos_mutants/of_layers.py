"""Mutants of an image that a layer was added to."""

import gzip
import json

import pytest

import harness.compose.layering
from harness.compose.ociimage import blob_path
from suites.harness.fcos_mutants.archives import LayeredImage, member, tar_of
from suites.harness.fcos_mutants.checks import (
    AGAIN,
    BLOBS,
    DIFF_IDS,
    DIGESTS,
    ELSE,
    FILES,
    HISTORY,
    INDEX,
    LAYERS,
    MARK,
    READERS_OF_IMAGE,
    SCHEMAS,
)
from suites.harness.mutants.mutant import Mutants

MUTANTS = Mutants()
mutant = MUTANTS.mutant

NOBODY = f"sha256:{'0' * 64}"
UNPACKED = "application/vnd.oci.image.layer.v1.tar"
STEP = {"created": "2023-11-14T22:13:20Z", "created_by": "somebody"}
PATH = "var/ybettan.txt"


@mutant(BLOBS, DIGESTS, FILES, kind="archive", cause=f"unpacks to sha256:[0-9a-f]{{64}}, its diff_id is {NOBODY}")
def diff_id_of_the_new_layer_is_wrong(image: LayeredImage) -> None:
    """The digest of the packed layer, or of nothing, where that of the unpacked one belongs."""
    image.rewrite(config=lambda config: config["rootfs"]["diff_ids"].__setitem__(-1, NOBODY))


@mutant(BLOBS, DIGESTS, DIFF_IDS, kind="archive", cause="config: diff_ids: number 1: .* became '" + NOBODY)
def diff_id_of_the_base_is_wrong(image: LayeredImage) -> None:
    """The diff_id of a layer of the base is another."""
    image.rewrite(config=lambda config: config["rootfs"]["diff_ids"].__setitem__(0, NOBODY))


@mutant(LAYERS, DIFF_IDS, HISTORY, FILES, kind="archive", cause="manifest: layers: how many: 2 and one more became 4")
def two_layers_were_added(image: LayeredImage) -> None:
    """Repacked twice: the second time there was a file more."""
    diff_id, stored = image.layer(member("etc/more"))
    layer = {**image.image.manifest["layers"][-1], **stored}
    image.rewrite(
        config=lambda config: (config["rootfs"]["diff_ids"].append(diff_id), config["history"].append(STEP)),
        manifest=lambda manifest: manifest["layers"].append(layer),
    )


@mutant(LAYERS, DIFF_IDS, HISTORY, BLOBS, kind="archive", cause="layers: how many: 2 and one more became 2")
def layer_of_the_base_is_lost(image: LayeredImage) -> None:
    """The lowest layer is gone, as if it had been squashed."""
    blob_path(image.layout, image.image.layers[0].digest).unlink()
    image.rewrite(
        config=lambda config: (config["rootfs"]["diff_ids"].pop(0), config["history"].pop(0)),
        manifest=lambda manifest: manifest["layers"].pop(0),
    )


@mutant(LAYERS, DIFF_IDS, kind="archive", cause="manifest: layers: number 1: ")
def layers_of_the_base_changed_places(image: LayeredImage) -> None:
    """The layers of the base lie the other way round."""
    image.rewrite(
        config=lambda config: config["rootfs"]["diff_ids"].insert(0, config["rootfs"]["diff_ids"].pop(1)),
        manifest=lambda manifest: manifest["layers"].insert(0, manifest["layers"].pop(1)),
    )


@mutant(HISTORY, kind="archive", cause="config: history: how many: 2 and one more became 2")
def history_is_silent(image: LayeredImage) -> None:
    """The history does not tell of the new layer."""
    image.rewrite(config=lambda config: config["history"].pop())


@mutant(HISTORY, kind="archive", cause="config: history that is not empty: 3 layers became 2")
def history_calls_the_layer_empty(image: LayeredImage) -> None:
    """The new entry is marked as one without a layer, so that the entries do not fit the layers."""
    image.rewrite(config=lambda config: config["history"][-1].update(empty_layer=True))


@mutant(HISTORY, kind="archive", cause="config: history: number 1: .*became .*rewritten")
def history_of_the_base_is_rewritten(image: LayeredImage) -> None:
    """An entry of the base says something else."""
    image.rewrite(config=lambda config: config["history"][0].update(created_by="rewritten"))


@mutant(BLOBS, DIGESTS, kind="archive", cause=r"blobs/sha256/([0-9a-f]{64}): sound became has the digest sha256:")
def blob_is_altered(image: LayeredImage) -> None:
    """A byte of a layer of the base is another; it keeps its name."""
    path = blob_path(image.layout, image.image.layers[0].digest)
    raw = bytearray(path.read_bytes())
    raw[700] ^= 0xFF
    path.write_bytes(raw)


@mutant(BLOBS, DIGESTS, kind="archive", cause=r"blobs/sha256/([0-9a-f]{64}): sound became is missing")
def blob_is_missing(image: LayeredImage) -> None:
    """The archive was packed without a layer of the base."""
    blob_path(image.layout, image.image.layers[0].digest).unlink()


@mutant(BLOBS, kind="archive", cause="belongs to no image here")
def blob_is_extra(image: LayeredImage) -> None:
    """A blob that no document names was packed along."""
    image.store(b"stray")


@mutant(BLOBS, DIGESTS, LAYERS, kind="archive", cause=r"has [\d,]+ bytes, but a manifest says [\d,]+")
def size_of_a_layer_is_off(image: LayeredImage) -> None:
    """The manifest says of a layer of the base that it has a byte more."""
    image.rewrite(manifest=lambda manifest: manifest["layers"][0].update(size=manifest["layers"][0]["size"] + 1))


@mutant(BLOBS, DIGESTS, FILES, kind="archive", cause=r"has \d+ bytes, the manifest says \d+")
def size_of_the_new_layer_is_off(image: LayeredImage) -> None:
    """The same of the new layer."""
    image.rewrite(manifest=lambda manifest: manifest["layers"][-1].update(size=manifest["layers"][-1]["size"] + 1))


@mutant(LAYERS, kind="archive", cause=f"type of the new layer: .*gzip became '{UNPACKED}'")
def new_layer_is_not_packed(image: LayeredImage) -> None:
    """The new layer is a plain tar, and called so."""
    blob_path(image.layout, image.image.layers[-1].digest).unlink()
    stored = {"mediaType": UNPACKED, **image.store(tar_of(member()))}
    diff_id = stored["digest"]
    image.rewrite(
        config=lambda config: config["rootfs"]["diff_ids"].__setitem__(-1, diff_id),
        manifest=lambda manifest: manifest["layers"][-1].update(stored),
    )


@mutant(INDEX, kind="archive", cause=r"expected 'latest', found ''")
def tag_is_lost(image: LayeredImage) -> None:
    """The index has no name for the image: coreos-assembler does not find it."""
    image.rewrite(index=lambda index: index["manifests"][0].pop("annotations"))


@mutant(INDEX, kind="archive", cause=r"expected 'latest', found 'new'")
def tag_is_another(image: LayeredImage) -> None:
    """Repacked under another tag."""
    name = "org.opencontainers.image.ref.name"
    image.rewrite(index=lambda index: index["manifests"][0]["annotations"].update({name: "new"}))


@mutant(READERS_OF_IMAGE, kind="archive", cause=r"layered\.ociarchive: holds 2 images")
def both_images_are_there(image: LayeredImage) -> None:
    """Repacked under a second tag: the index names two images."""
    image.rewrite(index=lambda index: index["manifests"].append({**index["manifests"][0], "annotations": {}}))


@mutant(FILES, kind="archive", cause=rf"\['{PATH}'\]\.uid: expected 0, found 1000")
def owner_is_the_builder(image: LayeredImage) -> None:
    """The file belongs to whoever built the image."""
    image.put_layer(member(uid=1000, gid=1000))


@mutant(FILES, kind="archive", cause=rf"\['{PATH}'\]\.mode: expected 420, found 384")
def mode_is_of_a_umask(image: LayeredImage) -> None:
    """The file can be read by root only."""
    image.put_layer(member(mode=0o600))


@mutant(FILES, kind="archive", cause=r"'etc/\.swp'\]: .* is not expected")
def file_is_extra(image: LayeredImage) -> None:
    """An editor's file came along."""
    image.put_layer(member("etc/.swp"), member())


@mutant(FILES, kind="archive", cause=r"'var'\]: .* is not expected")
def folder_is_told_again(image: LayeredImage) -> None:
    """The layer has an entry for /var, and with it a mode of its own."""
    image.put_layer(member("var", b"", type=b"5", mode=0o700), member())


@mutant(FILES, kind="archive", cause=rf"\['{PATH}'\]: .* is missing")
def file_is_elsewhere(image: LayeredImage) -> None:
    """The file lies in the root folder."""
    image.put_layer(member("ybettan.txt"))


@mutant(FILES, kind="archive", cause=rf"\['{PATH}'\]\.content: expected ")
def file_says_something_else(image: LayeredImage) -> None:
    """As many bytes, but others."""
    image.put_layer(member(content=b"ybettan was gone\n"))


@mutant(FILES, kind="archive", cause=f"the new layer: '{PATH}': once became 2 times")
def file_is_there_twice(image: LayeredImage) -> None:
    """The layer holds the file twice: readers take the one or the other."""
    image.put_layer(member(), member())


@mutant(ELSE, kind="archive", cause="config: created: ")
def creation_is_now(image: LayeredImage) -> None:
    """The image says that it was created when the layer was added."""
    image.rewrite(config=lambda config: config.update(created="2026-11-21T00:00:00Z"))


@mutant(ELSE, kind="archive", cause="config: config: .* became nothing")
def settings_are_lost(image: LayeredImage) -> None:
    """What the image runs is forgotten."""
    image.rewrite(config=lambda config: config.pop("config"))


@mutant(ELSE, kind="archive", cause="manifest: annotations: nothing became ")
def manifest_has_annotations(image: LayeredImage) -> None:
    """The manifest says something that it did not say."""
    image.rewrite(manifest=lambda manifest: manifest.update(annotations={"by": "somebody"}))


@mutant(MARK, READERS_OF_IMAGE, kind="archive", cause=r"expected '1\.0\.0', found '2\.0\.0'")
def layout_is_of_another_version(image: LayeredImage) -> None:
    """The file that marks a layout says 2.0.0."""
    (image.layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "2.0.0"}))


@mutant(READERS_OF_IMAGE, kind="archive", cause="its config lists 2 layers, its manifest 3")
def diff_id_is_lacking(image: LayeredImage) -> None:
    """The config does not know the new layer."""
    image.rewrite(config=lambda config: config["rootfs"]["diff_ids"].pop())


@mutant(READERS_OF_IMAGE, kind="archive", cause=r"sha256:[0-9a-f]{64} of [\d,]+ bytes is sha256:")
def manifest_is_altered(image: LayeredImage) -> None:
    """The manifest is not the one that the index names."""
    path = blob_path(image.layout, image.image.named["digest"])
    path.write_bytes(path.read_bytes() + b"\n")


@mutant(MARK, READERS_OF_IMAGE, AGAIN, kind="packed", cause=r"is compressed \(gz\)")
def archive_is_compressed(image: LayeredImage) -> None:
    """Somebody packed the archive, which coreos-assembler's are not."""
    path = image.folder / "layered.ociarchive"
    path.write_bytes(gzip.compress(path.read_bytes()))


@mutant(SCHEMAS, kind="both", cause=r"\$: 'os' is a required property")
def documents_lack_what_oci_asks_for(image: LayeredImage) -> None:
    """Base and layered image do not say for which system they are."""
    for layout in (image.base, image.layout):
        image.rewrite(config=lambda config: config.pop("os"), layout=layout)


@mutant(AGAIN, kind="code", cause="made again, the archive has the SHA-256 [0-9a-f]{64} instead of")
def layer_bears_the_time_of_the_clock(patch: pytest.MonkeyPatch) -> None:
    """Files of a layer get the time at which it is written."""
    write, times = harness.compose.layering.write_layer, iter(range(2**20))
    patch.setattr(harness.compose.layering, "write_layer", lambda sink, overlay, _: write(sink, overlay, next(times)))
