"""The two small container images that a reference image carries, made from one static busybox.

`static` is one layer with one program; `layered` has a layer for each thing that layers can do: add, hide a file,
empty a folder and overwrite a file. What each prints is stated here, so that a suite can compare it.
"""

from __future__ import annotations

from harness.containers.layout import Image, LayerFile
from harness.errors import BadInput

STATIC_NAME = "localhost/reference/static:1"
LAYERED_NAME = "localhost/reference/layered:1"
STATIC_SENTENCE = "static image: one program, one layer"
LAYERED_SENTENCE = "layered image: the topmost layer speaks"
APPLETS = ("cat", "echo", "env", "id", "ls", "sh", "sleep", "stat", "test", "true", "uname")
PATH = "PATH=/bin"

# ELF-64 header and program headers (System V ABI, chapters 4 and 5)
ELF_MAGIC = b"\x7fELF\x02"
PROGRAM_HEADER_OFFSET = slice(32, 40)
PROGRAM_HEADER_SIZE = slice(54, 56)
PROGRAM_HEADER_COUNT = slice(56, 58)
INTERPRETER = 3  # PT_INTERP


def busybox_images(busybox: bytes, architecture: str = "amd64") -> tuple[Image, ...]:
    """The static and the layered image around `busybox`, the bytes of a statically linked program."""
    base = (
        _folder("bin"),
        _folder("etc"),
        _folder("proc"),
        _folder("sys"),
        _folder("dev"),
        LayerFile("tmp", "directory", mode=0o1777),
        LayerFile("bin/busybox", mode=0o755, content=busybox),
        *(LayerFile(f"bin/{applet}", "symlink", target="busybox") for applet in APPLETS),
    )
    static = Image(
        STATIC_NAME,
        layers=(base,),
        entrypoint=("/bin/echo",),
        cmd=(STATIC_SENTENCE,),
        env=(PATH,),
        labels={"org.opencontainers.image.title": "static"},
        architecture=architecture,
    )
    layered = Image(
        LAYERED_NAME,
        layers=(base, _added(), _hidden(), _overwritten()),
        entrypoint=("/bin/sh", "/srv/speak"),
        env=(PATH,),
        labels={"org.opencontainers.image.title": "layered"},
        architecture=architecture,
    )
    return static, layered


def is_static(program: bytes) -> bool:
    """Whether `program` is a 64-bit ELF file that needs no dynamic loader."""
    if not program.startswith(ELF_MAGIC):
        return False
    offset, size, count = (
        int.from_bytes(program[place], "little")
        for place in (PROGRAM_HEADER_OFFSET, PROGRAM_HEADER_SIZE, PROGRAM_HEADER_COUNT)
    )
    kinds = (program[offset + number * size :][:4] for number in range(count))
    return INTERPRETER.to_bytes(4, "little") not in kinds


def checked_static(program: bytes, where: str) -> bytes:
    """`program` itself. Raises BadInput where it would not run in a container that holds nothing else."""
    if not is_static(program):
        raise BadInput(
            "is not a statically linked 64-bit program", where=where, next_step="take it from Debian's busybox-static"
        )
    return program


def _added() -> tuple[LayerFile, ...]:
    return (
        _folder("srv"),
        LayerFile("srv/speak", mode=0o755, content=_script("layered image: the second layer speaks")),
        LayerFile("srv/hidden", content=b"the third layer hides this file\n"),
        _folder("srv/emptied"),
        LayerFile("srv/emptied/old", content=b"the third layer empties this folder\n"),
        _folder("home"),
        LayerFile("home/core", "directory", mode=0o750, uid=1000, gid=1000),
        LayerFile("home/core/notes", mode=0o600, uid=1000, gid=1000, content=b"owned by core\n"),
    )


def _hidden() -> tuple[LayerFile, ...]:
    return (
        _folder("srv"),
        LayerFile("srv/hidden", "whiteout"),
        LayerFile("srv/emptied", "opaque", mode=0o755),
        LayerFile("srv/emptied/new", content=b"all that is left in this folder\n"),
    )


def _overwritten() -> tuple[LayerFile, ...]:
    return (_folder("srv"), LayerFile("srv/speak", mode=0o755, content=_script(LAYERED_SENTENCE)))


def _folder(path: str) -> LayerFile:
    return LayerFile(path, "directory", mode=0o755)


def _script(sentence: str) -> bytes:
    return f"echo '{sentence}'\n".encode()
