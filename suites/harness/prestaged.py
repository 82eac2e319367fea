"""A prestage folder of small images and a containers-storage of a test's own, filled and read by the real programs."""

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess

from harness.containers.folder import FolderFiles
from harness.containers.layout import Image, LayerFile, write_layout
from harness.containers.verify import verify_storage
from harness.prestage.archives.folder import SCRIPT_FILE
from harness.tools import run
from suites.harness.stored_images import needs

EPOCH = 1_700_000_000
ART = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"
SETTINGS = '[storage]\ndriver = "overlay"\nrunroot = "{0}/run"\ngraphroot = "{0}/root"\n'


needs_store = needs("skopeo", "podman")


def images(count, size=40_000, shared=2):
    """Images of three layers, of which `shared` images have the lowest in common; every third one is known by tag."""
    return [
        Image(
            f"localhost/image:{number}",
            (
                (LayerFile(f"base{number // shared}", content=bytes([number // shared]) * size),),
                (LayerFile("etc/name", content=b"image %d\n" % number), LayerFile("etc", "opaque", mode=0o755)),
                (LayerFile(f"own{number}", content=hashlib.sha256(b"%d" % number).digest() * (size // 32)),),
            ),
        )
        for number in range(count)
    ]


def write_folder(folder, count, **more):
    """The prestage folder of `count` images; returns their pull specs in the order of ai-images.txt."""
    layout = folder.with_name(f"{folder.name}-layout")
    written = write_layout(layout, images(count, **more), EPOCH)
    folder.mkdir()
    references, mapping = [], []
    for number, image in enumerate(written):
        digested = f"{ART}@{image.manifest}"
        references.append(f"quay.io/edge/agent{number}:v1.0" if number % 3 == 2 else digested)
        if number % 3 == 1:
            mapping.append(f"{digested}=registry.example/rhai/agent{number}:4.10-agent{number}\n")
        plain = folder / stem_of(references[-1])
        run(["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{layout}:{image.name}", f"dir:{plain}"])
        pack(plain)
    (folder / "ai-images.txt").write_text("# made for a test\n\n" + "".join(f"{name}  \n" for name in references))
    (folder / "mapping.txt").write_text("".join(mapping))
    list_sums(folder)
    return references


def stem_of(reference):
    return reference.rpartition("/")[2].replace(":", "_")


def pack(plain):
    """A skopeo dir as the archive beside it, which takes its place."""
    run(["tar", "-C", str(plain.parent), "--sort=name", "-czf", f"{plain}.tgz", plain.name])
    run(["rm", "-r", str(plain)])


def unpack(archive):
    run(["tar", "-C", str(archive.parent), "-xzf", str(archive)])
    return archive.with_suffix("")


def list_sums(folder):
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tgz"))}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


class Guest:
    """What the script sees of a guest: a store, a state folder, and programs that use them."""

    def __init__(self, root):
        self.root = root
        self.state = root / "state"
        self.stamp = root / "complete"
        (root / "storage.conf").write_text(SETTINGS.format(root))

    def command(self, *argv):
        """skopeo leaves the store mounted; a mount namespace takes that along."""
        environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(self.root / "storage.conf"), "LC_ALL": "C.UTF-8"}
        environment.pop("JOURNAL_STREAM", None)
        return {"args": ["unshare", "--mount", *map(str, argv)], "env": environment, "text": True}

    def run(self, *argv):
        return subprocess.run(**self.command(*argv), check=False, capture_output=True, timeout=600)

    def script(self, folder, *options, listed="ai-images.txt", script=SCRIPT_FILE):
        more = ["--state", self.state, "--jobs", 2, *options]
        return ["bash", script, *more, folder, folder / listed]

    def extract(self, folder, *options, **more):
        return self.run(*self.script(folder, *options, **more))

    def start(self, folder, *options):
        """The script in a process group of its own, still at work."""
        command = self.command(*self.script(folder, *options))
        return subprocess.Popen(**command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def kill_jobs(self):
        """Each job has a process group of its own, all hold the lock of the state folder open, and some fork."""
        asking = ["fuser", self.state / "lock"]
        while users := subprocess.run(asking, check=False, capture_output=True, text=True).stdout.split():
            for pid in users:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(int(pid), signal.SIGKILL)

    def copy(self, layout, image, reference):
        """What somebody else does: put an image into the store."""
        done = self.run("skopeo", "copy", "-q", f"oci:{layout}:{image}", f"containers-storage:{reference}")
        assert done.returncode == 0, done.stderr

    def images(self):
        """The records of the store's images."""
        path = self.root / "root/overlay-images/images.json"
        return json.loads(path.read_text()) if path.exists() else []

    def names(self):
        """Every name in the store -> the id of its image."""
        return {name: image["id"] for image in self.images() for name in image.get("names", [])}

    def digests(self):
        return {name: image["digest"] for image in self.images() for name in image.get("names", [])}

    def forget_image(self, reference):
        """Its layers stay, as when the power is cut before skopeo has written the image's record."""
        images, folder = self.images(), self.root / "root/overlay-images"
        kept = [image for image in images if reference not in image.get("names", [])]
        (folder / "images.json").write_text(json.dumps(kept))
        for image in images:
            if image not in kept:
                shutil.rmtree(folder / image["id"])

    def tear_image(self, reference):
        """As when skopeo is killed after it has written the image's record and manifest, and nothing else yet."""
        images, folder = self.images(), self.root / "root/overlay-images"
        (image,) = [image for image in images if reference in image.get("names", [])]
        for name in ("names", "names-history"):
            image.pop(name)
        for kind in ("big-data-names", "big-data-sizes", "big-data-digests"):
            kept = {name: image[kind][name] if isinstance(image[kind], dict) else None for name in image[kind]}
            kept.pop(f"sha256:{image['id']}")
            image[kind] = kept if isinstance(image[kind], dict) else list(kept)
        (folder / "images.json").write_text(json.dumps(images))
        config = base64.b64encode(f"sha256:{image['id']}".encode()).decode()
        (folder / image["id"] / f"={config}").unlink()

    def empty_layers_without(self, *references):
        """Truncate every file of the layers that these images do not use."""
        path = self.root / "root/overlay-layers/layers.json"
        layers = {layer["id"]: layer for layer in json.loads(path.read_text())} if path.exists() else {}
        used = set()
        for image in self.images():
            layer = image["layer"] if set(references) & set(image.get("names", [])) else None
            while layer:
                used.add(layer)
                layer = layers[layer].get("parent")
        for other in layers.keys() - used:
            for path in (self.root / "root/overlay" / other / "diff").rglob("*"):
                if path.is_file():
                    os.truncate(path, 0)

    def problems(self):
        """What a full check of the store finds wrong."""
        found = verify_storage(FolderFiles(self.root), "/root")
        return [str(problem) for problem in found.problems]

    def left(self):
        """What the script leaves in its state folder."""
        return sorted(path.name for path in self.state.iterdir())


def lines_of(done):
    """The script's lines, without what changes from run to run."""
    return [re.sub(r" \([^()]*\ds?(?:, \d+ at a time)?\)$", "", line) for line in done.stdout.splitlines()]
