#!/bin/bash
# Bring every container image of a list from a prestage folder into containers-storage.
#
#   extract-images [--jobs N] [--label PARTITION] [--stamp FILE] [--state DIR] FOLDER LIST
#
#   FOLDER           archives (<stem>.tgz), SHA256SUMS and mapping.txt
#   LIST             one pull spec a line; only the first word counts, # begins a comment
#   --jobs N         images at a time; without it 80 % of the cores, rounded, at least one
#   --label NAME     FOLDER is where the partition of this label is mounted: fail if it is not
#   --stamp FILE     written when every image is in
#   --state DIR      what outlives a power cut (default: /var/lib/prestage)
#
# Exit code: 0 all images are there; 1 some are not, the rest is; 2 folder, list or partition is missing.
#
# What makes an image count as there, after any crash:
# - containers-storage does not flush what it unpacks. After a power cut an image may look complete and have empty
#   files. So only the marker in DIR/finished counts, and it is written after the filesystem of the store was flushed:
#   for all images at once that were copied since the last flush. A journal line that says `extracted` comes after that.
# - What was begun (DIR/begun, flushed before skopeo runs) and has no marker is not trusted, nor is any layer of it,
#   even one that no image names yet: skopeo would use it again for whatever image shares it. Such an image is copied
#   once more, which gathers its layers under one name, and deleted with all of them before anything is extracted.
# - Groups are as large as what GROUP_SECONDS bring, so a crash costs no more work than that, and what was under way.
# - Images that were in the store before our first run (DIR/before) came with the operating system and are its affair.
#   Others' later images of our list are replaced like our own, but only while their archive is sound; those that a
#   container uses stay. Images that the list does not name are left alone, and so are the layers they share.
#
# What is verified, and by whom:
# - here: the archive against SHA256SUMS, in the same pass that unpacks it (a folder of factory-precaching-cli has
#   none: then the archive's CRC and the next two must do); manifest.json against a by-digest reference.
# - by skopeo, while it copies: every blob that it reads against its digest in the manifest, which is its file name.
#   Blobs of layers that are in the store already are not read, blobs that no manifest names are never used.

set -u -o pipefail
export LC_ALL=C

GROUP_SECONDS=5 GROUP_IMAGES=16 # the most that is copied before it is flushed

# skopeo keeps what it learns of blobs in a cache that it flushes some forty times an image. Nothing here needs that on
# a disk, so where we may have mounts of our own it gets memory. Later mounts and unmounts of the system reach us.
if [[ ! ${EXTRACT_IMAGES_MOUNTS-} && -f $0 ]] && unshare --mount true 2>/dev/null; then
    EXTRACT_IMAGES_MOUNTS=own exec unshare --mount --propagation slave "$BASH" "$0" "$@"
fi
if [[ ${EXTRACT_IMAGES_MOUNTS-} ]]; then
    mkdir -p /var/lib/containers/cache && mount -t tmpfs -o mode=0700 cache /var/lib/containers/cache
fi 2>/dev/null

state=/var/lib/prestage label='' stamp='' jobs=0 level=''
[[ ${JOURNAL_STREAM-} ]] && level='<3>' # lets `journalctl -p err` find failures

unusable() {
    printf '%sextract-images: %s\n' "$level" "$1" >&2
    exit 2
}

while [[ ${1-} == --* ]]; do
    [[ $# -ge 2 ]] || unusable "$1 needs a value"
    case $1 in
        --jobs) jobs=$2 ;;
        --label) label=$2 ;;
        --stamp) stamp=$2 ;;
        --state) state=$2 ;;
        *) unusable "unknown option $1" ;;
    esac
    shift 2
done
[[ $# -eq 2 ]] || unusable 'usage: extract-images [--jobs N] [--label NAME] [--stamp FILE] [--state DIR] FOLDER LIST'
folder=$1 list=$2
[[ $jobs =~ ^[0-9]{1,3}$ ]] || unusable "--jobs takes a number, not $jobs"
((jobs = 10#$jobs)) || jobs=$((($(nproc) * 8 + 5) / 10))

if [[ $label ]]; then
    [[ -e /dev/disk/by-partlabel/$label ]] || unusable "no partition is labelled $label (see lsblk -o NAME,PARTLABEL)"
    mountpoint -q "$folder" || unusable "the partition labelled $label is not mounted at $folder (see dmesg)"
fi
[[ -d $folder ]] || unusable "the folder $folder is missing"
[[ -r $list && -f $list ]] || unusable "the list $list is missing"
for program in skopeo podman tar flock; do
    [[ $(type -P "$program") ]] || unusable "$program is not installed"
done
podman=(podman --events-backend none) # else it writes a line of its own into the journal for each thing it does
unzip=gzip
[[ $(type -P pigz) ]] && unzip=pigz

# --- what is wanted

declare -a refs=() faults=() # faults: why the image of the same index can never be extracted
declare -A sums=() tags=() seen=() stems=()
has_sums=''

# Functions called *_of leave their answer in REPLY: a fork costs 30 ms in an emulated guest.
stem_of() { # REFERENCE: its archive without .tgz
    REPLY=${1##*/}
    REPLY=${REPLY//:/_}
}

read_folder() {
    local line ref stem fault
    if [[ -e $folder/SHA256SUMS ]]; then
        has_sums=yes
        while read -r line; do
            [[ $line =~ ^([0-9a-f]{64})\ [\ *]?(.+)$ ]] && sums[${BASH_REMATCH[2]}]=${BASH_REMATCH[1]}
        done <"$folder/SHA256SUMS"
    fi
    if [[ -e $folder/mapping.txt ]]; then
        while read -r line; do
            line=${line%$'\r'}
            [[ $line =~ ^([^=]+@sha256:[0-9a-f]{64})=.*:([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})$ ]] || continue
            tags[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
        done <"$folder/mapping.txt"
    fi
    while read -r ref _ || [[ $ref ]]; do
        ref=${ref%$'\r'}
        [[ $ref && $ref != \#* && ! ${seen[$ref]-} ]] || continue
        seen[$ref]=yes fault=''
        stem_of "$ref"
        stem=$REPLY
        [[ $ref =~ ^[A-Za-z0-9][A-Za-z0-9._:/-]*/[a-z0-9._-]+(:[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{64})$ ]] ||
            fault='the line is no pull spec with a tag or a digest'
        [[ ! ${stems[$stem]-} ]] || fault="${stems[$stem]} has an archive of the same name"
        stems[$stem]=$ref
        refs+=("$ref") faults+=("$fault")
    done <"$list"
    [[ ${#refs[@]} -gt 0 ]] || unusable "the list $list names no image"
}
read_folder
total=${#refs[@]}

# --- what is there: names and ids of the store, and what DIR says of them

umask 022
mkdir -p "$state" || unusable "$state cannot be made"
exec 9>>"$state/lock" || unusable "$state cannot be written"
flock -n 9 || {
    echo 'waiting: another extract-images is at work'
    flock 9
}

scratch=$state/scratch # not in /tmp, which may be memory
# shellcheck disable=SC2317 # called by the trap
leave() {
    trap '' INT TERM HUP
    local job
    for job in $(jobs -p); do kill -TERM -- "-$job" 2>/dev/null; done
    wait
    rm -rf "$scratch"
}
trap leave EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT
rm -rf "$scratch" # of a run that was killed
mkdir -m 0700 "$scratch" || unusable "$scratch cannot be made"

declare -A id_of=() names_of=()
store='' # its folder
read_store() {
    local id names name line
    id_of=() names_of=()
    until "${podman[@]}" --log-level debug images --no-trunc --noheading --format '{{.ID}} {{.Names}}' \
        >"$scratch/images" 2>"$scratch/error"; do
        line=$(last_line "$scratch/error") # podman lists nothing where the copy of one image ended before its config
        if [[ ! -s $state/begun || ! $line =~ \"([0-9a-f]{64})\" ]] ||
            ! skopeo delete "containers-storage:@${BASH_REMATCH[1]}" >/dev/null 2>&1; then
            unusable "podman cannot list images: $line"
        fi
        echo "removed the image ${BASH_REMATCH[1]}: an interrupted run left it without its config"
    done
    while read -r id names; do
        names=${names#[} names=${names%]} id=${id#sha256:}
        names_of[$id]=$names
        for name in $names; do id_of[$name]=$id; done
    done <"$scratch/images"
    [[ ! $store ]] || return 0
    while read -r line; do # to ask `podman info` takes as long as an image
        [[ $line =~ 'Using graph root '(/[^\"]*) ]] && store=${BASH_REMATCH[1]}
    done <"$scratch/error"
    [[ -d $store ]] || store=$("${podman[@]}" info --format '{{.Store.GraphRoot}}' 2>/dev/null)
    [[ -d $store ]] || unusable 'podman does not say where its storage is'
}

# The last thing a program said, in one line; skopeo wraps it as time="..." level=fatal msg="...".
last_line() {
    local line last='it said nothing'
    while IFS= read -r line; do [[ $line ]] && last=$line; done <"$1"
    if [[ $last == *' msg="'* ]]; then
        last=${last#* msg=\"} last=${last%\"}
        last=${last//\\\"/\"}
    fi
    printf %s "${last:0:600}"
}

first_line() { # of a program whose last line only repeats that it failed
    local line
    while IFS= read -r line; do [[ $line ]] && break; done <"$1"
    printf %s "${line:0:600}"
}

replace() { # NAME LINE...: a file of DIR, whole or not at all
    local name=$1 new=$state/.$1.new
    shift
    if ! { (($# == 0)) || printf '%s\n' "$@"; } >"$new" || ! sync "$new" || ! mv -f "$new" "$state/$name" ||
        ! sync "$state"; then
        unusable "$state/$name cannot be written"
    fi
}

declare -A markers=() before=() begun=() stuck=()
read_state() {
    local ref sum tag end name
    [[ -e $state/before ]] || replace before "${!id_of[@]}"
    while read -r name; do [[ ! $name ]] || before[$name]=yes; done <"$state/before"
    for name in finished begun; do [[ -e $state/$name ]] || replace "$name"; done
    # A line that a power cut tore lacks its end.
    while read -r ref sum tag end; do [[ $end == . ]] && markers[$ref]="$sum $tag"; done <"$state/finished"
    while read -r ref end; do [[ $end == . ]] && begun[$ref]=yes; done <"$state/begun"
}

# What a marker says of an image: its archive and its tag. Both may change, as `latest` does.
marker_of() {
    stem_of "$1"
    REPLY="${sums[$REPLY.tgz]:--} ${tags[$1]:--}"
}

tagged_of() { # the second name that the mapping gives, or nothing
    REPLY=${tags[$1]:+${1%@*}:${tags[$1]}}
}

is_done() {
    [[ ${id_of[$1]-} ]] || return
    marker_of "$1"
    [[ ${markers[$1]-} == "$REPLY" ]] || return
    tagged_of "$1"
    [[ ! $REPLY || ${id_of[$REPLY]-} == "${id_of[$1]}" ]]
}

# --- one image, from its archive into the store

wrong() { # ROOM CAUSE
    printf '%s\n' "$2" >"$1/cause"
    return 1
}

# Unpack an archive into a folder of its own and verify it; on failure the file `cause` in there says why.
unpacked() { # ROOM REFERENCE
    local room=$1 stem archive sum status hash hashing
    stem_of "$2"
    stem=$REPLY archive=$folder/$REPLY.tgz
    mkdir -p "$room/tmp" || return
    [[ -f $archive ]] || { wrong "$room" 'it is missing' || return; }
    [[ ! $has_sums || ${sums[$stem.tgz]-} ]] || { wrong "$room" 'SHA256SUMS does not list it' || return; }
    exec {hash}> >(exec sha256sum >"$room/sum")
    hashing=$!
    # tee -p: the sum is of the whole file even where the unpacking ends early
    tee -p "/dev/fd/$hash" 2>"$room/tee" <"$archive" | "$unzip" -dc 2>"$room/unzip" |
        tar -x -m --no-same-owner --no-same-permissions -C "$room" -f - "$stem" 2>"$room/tar"
    status=("${PIPESTATUS[@]}")
    exec {hash}>&-
    wait "$hashing"
    read -r sum _ <"$room/sum"
    [[ ! -s $room/tee ]] || { wrong "$room" "$(first_line "$room/tee")" || return; }
    if [[ $has_sums && $sum != "${sums[$stem.tgz]}" ]]; then
        wrong "$room" "its SHA-256 is $sum, SHA256SUMS says ${sums[$stem.tgz]} (truncated or corrupt)" || return
    fi
    if [[ ${status[1]}${status[2]} != 00 ]]; then
        if [[ -s $room/unzip ]] && ! grep -q 'No space' "$room/tar"; then
            wrong "$room" "$(first_line "$room/unzip")" || return
        fi
        wrong "$room" "$(first_line "$room/tar")" || return
    fi
    [[ -f $room/$stem/manifest.json ]] || { wrong "$room" "it has no $stem/manifest.json" || return; }
    if [[ $2 == *@sha256:* ]]; then
        read -r sum _ < <(exec sha256sum <"$room/$stem/manifest.json")
        [[ $sum == "${2##*@sha256:}" ]] || { wrong "$room" "its manifest.json has the digest sha256:$sum" || return; }
    fi
}

has_tmpdir=''
ask_skopeo() { # before 1.2 it knows only TMPDIR, later ones put large files elsewhere all the same
    [[ $(skopeo --help 2>/dev/null) == *--tmpdir* ]] && has_tmpdir=yes
}

copied() { # ROOM REFERENCE: from an unpacked archive into the store
    stem_of "$2"
    local room=$1 from=dir:$1/$REPLY to=containers-storage:$2
    TMPDIR=$room/tmp skopeo ${has_tmpdir:+--tmpdir "$room/tmp"} copy --quiet "$from" "$to" >/dev/null 2>"$room/skopeo" ||
        wrong "$room" "$(last_line "$room/skopeo")"
}

tagged() { # ROOM REFERENCE
    tagged_of "$2"
    [[ ! $REPLY ]] || "${podman[@]}" tag "$2" "$REPLY" 2>"$1/podman" ||
        wrong "$1" "it cannot be tagged $REPLY: $(last_line "$1/podman")"
}

# A job. Its last word is the line of a file, since bash before 5.1 cannot say which job it was that ended.
extract() { # INDEX
    local ref=${refs[$1]} room=$scratch/$1 verb=refused start end cause=''
    read -r start _ </proc/uptime
    if unpacked "$room" "$ref" && verb=broken && copied "$room" "$ref" && tagged "$room" "$ref"; then
        read -r end _ </proc/uptime
        verb=copied cause=$((10#${end/./} - 10#${start/./}))
    else
        read -r cause <"$room/cause"
    fi
    rm -rf "$room"
    printf '%s %s\n' "$verb" "$cause" >"$room.result"
}

# --- after a crash: nothing that was begun and not finished may be used again

# Free the layers of interrupted copies that no image names: copy again whatever was begun, so that it can be deleted.
gather() {
    local ref room=$scratch/gather
    for ref in "${!begun[@]}"; do
        if [[ ${id_of[$ref]-} || ${before[$ref]-} ]]; then continue; fi
        echo "removing what an interrupted run left of $ref"
        mkdir "$room"
        if ! unpacked "$room" "$ref" || ! copied "$room" "$ref"; then
            stuck[$ref]="$ref ."
            echo "layers of $ref that no image names may stay: $(<"$room/cause")"
        fi
        rm -rf "$room"
    done
    read_store
}

is_ours() { # whether all names of an image come from our list
    local name ref
    for name in ${names_of[$1]}; do
        [[ ${seen[$name]-} || ${begun[$name]-} ]] && continue
        for ref in "${!tags[@]}"; do [[ ${ref%@*}:${tags[$ref]} == "$name" ]] && continue 2; done
        return 1
    done
}

# Delete images without a marker, all of them before the first is extracted: they may share layers.
declare -A kept=()
discard() {
    local ref other id room=$scratch/discard gone=' '
    for ref in "${refs[@]}" "${!begun[@]}"; do
        id=${id_of[$ref]-}
        if [[ ! $id || $gone == *" $id "* ]] || ! is_ours "$id"; then continue; fi
        for other in ${names_of[$id]}; do # one of its names is done, or was there before us
            if [[ ${before[$other]-} ]] || is_done "$other"; then continue 2; fi
        done
        for other in ${names_of[$id]}; do # somebody else's: worth more than an archive that cannot replace it
            if [[ ! ${seen[$other]-} || ${begun[$other]-} ]]; then continue; fi
            mkdir "$room"
            unpacked "$room" "$other" || kept[$id]=archive
            rm -rf "$room"
            [[ ! ${kept[$id]-} ]] || continue 2
        done
        if skopeo delete "containers-storage:$ref" >/dev/null 2>"$scratch/error"; then
            gone+="$id "
            echo "removed $ref: it has no marker of a finished extraction"
        else
            kept[$id]="kept, $(last_line "$scratch/error")"
        fi
    done
    if [[ $gone != ' ' ]]; then
        sync -f "$store"
        read_store
    fi
}

# --- all of them

notify() { [[ ! ${NOTIFY_SOCKET-} ]] || systemd-notify --status="$1" 2>/dev/null; }

count=0 extracted=0 skipped=0 failed=0 bytes=0
report() { # INDEX RESULT
    local ref=${refs[$1]} result=$2 time=${2#* } size
    ((count += 1))
    case ${result%% *} in
        extracted)
            stem_of "$ref"
            size=${sizes[$REPLY.tgz]-0}
            ((extracted += 1, bytes += size))
            megabytes_of "$size"
            printf '[%d/%d] extracted %s (%s MB, %d.%d s)\n' "$count" "$total" "$ref" "$REPLY" \
                $((time / 100)) $((time / 10 % 10))
            ;;
        skipped)
            ((skipped += 1))
            printf '[%d/%d] skipped %s: %s\n' "$count" "$total" "$ref" "${result#* }"
            ;;
        *)
            ((failed += 1))
            stem_of "$ref"
            printf '%s[%d/%d] FAILED %s: archive %s.tgz: %s\n' "$level" "$count" "$total" "$ref" "$REPLY" "${result#* }"
            ;;
    esac
    if ((SECONDS - told >= 2)); then
        told=$SECONDS
        notify "$count of $total images, $failed failed"
    fi
}
told=-2

megabytes_of() { printf -v REPLY '%d.%d' $(($1 / 1000000)) $(($1 / 100000 % 10)); }

declare -A sizes=() # of archives, in bytes
measure() {
    local size path
    while read -r size path; do sizes[${path##*/}]=$size; done < <(stat -c '%s %n' "$folder"/*.tgz 2>/dev/null)
}

begin() { # INDEX...: from here on a power cut may leave layers of these that cannot be trusted
    local index lines=()
    for index in "$@"; do lines+=("${refs[$index]} ."); done
    # The empty line ends what an earlier write may have torn.
    printf '%s\n' '' "${lines[@]}" >>"$state/begun" && sync "$state/begun"
}

declare -a unflushed=() # "INDEX TIME" of images that are in the store and have no marker yet
group=1 flushed=0
flush() { # the store, then the markers, then the news
    local image marks=() cause=''
    for image in "${unflushed[@]}"; do
        marker_of "${refs[${image% *}]}"
        marks+=("${refs[${image% *}]} $REPLY .")
    done
    ((${#marks[@]})) || return
    if ! sync -f "$store" 2>"$scratch/error"; then
        cause="it cannot be flushed to disk: $(last_line "$scratch/error")"
    elif ! printf '%s\n' "${marks[@]}" >>"$state/finished" || ! sync "$state/finished"; then
        cause="$state/finished cannot be written"
    fi
    for image in "${unflushed[@]}"; do
        if [[ $cause ]]; then
            report "${image% *}" "failed $cause"
            stuck[${refs[${image% *}]}]="${refs[${image% *}]} ."
        else
            report "${image% *}" "extracted ${image#* }"
        fi
    done
    unflushed=() flushed=$SECONDS
}

flush_when_due() {
    if ((${#unflushed[@]} >= group)); then
        flush
        ((group = group * 2 < GROUP_IMAGES ? group * 2 : GROUP_IMAGES))
    elif ((${#unflushed[@]} && SECONDS - flushed >= GROUP_SECONDS)); then
        group=${#unflushed[@]}
        flush
    fi
}

declare -A running=() # pid -> index
reap() {
    local pid index result
    for pid in "${!running[@]}"; do
        index=${running[$pid]}
        if ! read -r result 2>/dev/null <"$scratch/$index.result"; then
            kill -0 "$pid" 2>/dev/null && continue
            read -r result 2>/dev/null <"$scratch/$index.result" || result='broken its extraction was killed'
            rm -rf "${scratch:?}/$index"
        fi
        case $result in
            copied*) unflushed+=("$index ${result#* }") ;;
            *) report "$index" "failed ${result#* }" ;;
        esac
        [[ $result != broken* ]] || stuck[${refs[$index]}]="${refs[$index]} ."
        unset "running[$pid]"
    done
}

extract_all() { # INDEX...
    local queue=("$@") next begun=0
    # Each job in a process group of its own, so that it can be ended whole. It keeps the lock: after a kill -9 of this
    # shell the next run waits until the last job has copied its image.
    set -m
    for ((next = 0; next < ${#queue[@]}; next++)); do
        while ((${#running[@]} >= jobs)); do
            wait -n 2>/dev/null
            reap
        done
        if ((next >= begun)); then
            if ! begin "${queue[@]:next:group}"; then
                report "${queue[next]}" "failed $state/begun cannot be written"
                continue
            fi
            ((begun = next + group))
        fi
        extract "${queue[next]}" &
        running[$!]=${queue[next]}
        flush_when_due # while the job runs
    done
    while ((${#running[@]} > 0)); do
        wait -n 2>/dev/null
        reap
        flush_when_due
    done
    set +m
    flush
}

classify() { # leaves in `todo` the indexes of what is to be extracted, and reports the rest
    local index ref
    todo=()
    for index in "${!refs[@]}"; do
        ref=${refs[$index]}
        if [[ ${faults[$index]} ]]; then
            report "$index" "failed ${faults[$index]}"
        elif is_done "$ref"; then
            report "$index" 'skipped present'
        elif [[ ${before[$ref]-} && ${id_of[$ref]-} ]]; then
            tagged_of "$ref"
            [[ ! $REPLY || ${id_of[$REPLY]-} ]] || "${podman[@]}" tag "$ref" "$REPLY"
            report "$index" 'skipped present before the first run'
        elif [[ ${id_of[$ref]-} && ${kept[${id_of[$ref]}]-archive} != archive ]]; then
            report "$index" "skipped present: ${kept[${id_of[$ref]}]}"
        else
            todo+=("$index")
        fi
    done
}

read_store
read_state
for ref in "${!begun[@]}"; do is_done "$ref" && unset "begun[$ref]"; done
if ((${#begun[@]})); then
    ask_skopeo
    gather
fi
discard
classify
if ((${#todo[@]})); then
    lines=() # markers that hold no more go before what they vouched for is made anew
    for index in "${todo[@]}"; do unset "markers[${refs[$index]}]"; done
    for ref in "${!markers[@]}"; do lines+=("$ref ${markers[$ref]} ."); done
    replace finished "${lines[@]}"
    replace begun "${stuck[@]}"
    ask_skopeo
    measure
    extract_all "${todo[@]}"
fi
[[ ! -s $state/begun ]] || replace begun "${stuck[@]}" # the others have their markers, or skopeo never saw them
if [[ $stamp ]] && ((failed == 0)); then
    mkdir -p "$(dirname "$stamp")" && : >"$stamp" && sync "$stamp"
fi
megabytes_of "$bytes"
summary="extracted $extracted, skipped $skipped, FAILED $failed of $total images"
summary+=" ($REPLY MB in $SECONDS s, $jobs at a time)"
echo "$summary"
notify "$summary"
((failed == 0))
