"""A prestage folder of small images and a containers-storage of a test's own, filled and read by the real programs."""

import hashlib
import json
import os
import re
import subprocess

from harness.containers.folder import FolderFiles
from harness.containers.layout import Image, LayerFile, write_layout
from harness.containers.verify import verify_storage
from harness.prestage.archives.folder import SCRIPT_FILE
from harness.tools import run

EPOCH = 1_700_000_000
ART = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"
SETTINGS = '[storage]\ndriver = "overlay"\nrunroot = "{0}/run"\ngraphroot = "{0}/root"\n'


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

    def script(self, folder, *options, listed="ai-images.txt"):
        more = ["--state", self.state, "--jobs", 2, *options]
        return ["bash", SCRIPT_FILE, *more, folder, folder / listed]

    def extract(self, folder, *options, **more):
        return self.run(*self.script(folder, *options, **more))

    def start(self, folder, *options):
        """The script in a process group of its own, still at work."""
        command = self.command(*self.script(folder, *options))
        return subprocess.Popen(**command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def copy(self, layout, image, reference):
        """What somebody else does: put an image into the store."""
        done = self.run("skopeo", "copy", "-q", f"oci:{layout}:{image}", f"containers-storage:{reference}")
        assert done.returncode == 0, done.stderr

    def names(self):
        """Every name in the store -> the id of its image."""
        path = self.root / "root/overlay-images/images.json"
        found = json.loads(path.read_text()) if path.exists() else []
        return {name: image["id"] for image in found for name in image.get("names", [])}

    def digests(self):
        path = self.root / "root/overlay-images/images.json"
        return {name: image["digest"] for image in json.loads(path.read_text()) for name in image.get("names", [])}

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
