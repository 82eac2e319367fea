"""The extraction loop of the prototype of factory pre-staging, to measure ours against.

One image after another: asked for by podman, unpacked beside its archive, copied by skopeo, removed again. Nothing is
verified, flushed or marked. Bash, so that it runs on this host and in a guest alike.
"""

SEQUENTIAL = r"""
cd "$1" || exit 2
while read -r image _; do
    case $image in '' | '#'*) continue ;; esac
    podman image exists "$image" && continue
    name=${image##*/}
    name=${name//:/_}
    tar zxvf "$name.tgz" || continue
    skopeo copy "dir://$PWD/$name" "containers-storage:$image" && rm -rf "$name"
done <"$2"
"""


def sequential(folder, listed):
    """The command that runs it; the folder must be writable."""
    return ["bash", "-c", SEQUENTIAL, "sequential", str(folder), str(listed)]
