"""A small set of files, as artifacts are made of, and how to look at folders and layouts of it."""

FILES = {
    "index.json": b'{"base": "qemu.qcow2"}\n',
    "qemu.qcow2": b"QFI\xfb" + bytes(range(256)) * 2000,
    "openstack.qcow2.recipe": b"\x89IMGDLT\n" + b"a small recipe",
    "live iso.recipe": b"",
}


def written(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def blob(layout, digest):
    return layout / "blobs/sha256" / digest.removeprefix("sha256:")
