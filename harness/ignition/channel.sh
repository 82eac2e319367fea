# The guest's end of the harness's channel: a root shell on a virtio-serial port, without a terminal.
#
# The host writes one line   <id> <base64 of a bash script>   or   <id> =<text>   or   <id> !<text>
# and is answered one line   <id> <exit code> <base64 of stdout> <base64 of stderr>
# with exactly one space between fields, so that an empty output is an empty field. Other lines are ignored.
# At its start this end writes the line `ready`; seeing it again means that the guest has booted again.
#
# One script runs at a time, in a subshell of its own without standard input. Bash and coreutils are all it needs.
# A program costs some 30 ms in an emulated guest, and 100 in one just restored. So a script may come as text, in
# which \\ is a backslash and \n a line end; then short outputs are answered as text too, with \s for a space and \r.
# Text behind ! is run by this shell itself, without a subshell: it can define functions, and must not exit.

LC_ALL=C # bytes, not characters; not exported
port=${1:-/dev/virtio-ports/org.image-harness.channel}
folder=${RUNTIME_DIRECTORY:-/run}

exec 4<> <(:) # a pipe that never has anything to read: waiting on it sleeps without a fork
pause() { read -r -t "$1" -u 4; }

if ! { : >&3; } 2>/dev/null; then # file descriptor 3 may be handed over already open
    until [[ -c $port ]]; do pause 0.2; done
    exec 3<>"$port" || exit 1
fi

printf 'ready\n' >&3

# A file as one field: what has no NUL and is short as text where that is understood ($2), else in base64.
field() {
    local text
    [[ -s $1 ]] || return
    if [[ $2 ]] && ! IFS= read -r -d '' -n 512 text <"$1"; then
        text=${text//'\'/'\\'} text=${text// /'\s'}
        text=${text//$'\n'/'\n'} text=${text//$'\r'/'\r'}
        printf '=%s' "$text" >&3
    else
        base64 -w0 "$1" >&3
    fi
}

round=0
while :; do
    if ! IFS= read -r -u 3 line; then
        # No host is connected: a virtio port then reads as empty. Half a line is lost with the host that sent it.
        [[ -e $port || ! -c /dev/fd/3 ]] || exit 1
        pause 0.05
        continue
    fi
    id=${line%% *}
    code=${line#"$id"}
    code=${code# }
    [[ -n $id && -n $code && $id != *[!A-Za-z0-9._-]* ]] || continue
    kind=${code%"${code#[=!]}"}
    if [[ $kind ]]; then
        printf -v script %b "${code#?}"
    elif [[ $code == *[!A-Za-z0-9+/=]* ]] || ! script=$(base64 -d <<<"$code" 2>/dev/null); then
        continue
    fi
    line='' code=''

    # A daemon left behind by a script may still hold its output open, so no two rounds share files.
    out=$folder/out.$round err=$folder/err.$round
    if [[ $kind == ! ]]; then
        eval "$script" </dev/null >"$out" 2>"$err"
    else
        (
            set --
            unset LC_ALL
            eval "$script"
        ) </dev/null >"$out" 2>"$err" 3>&- 4>&-
    fi
    status=$?

    printf '%s %d ' "$id" "$status" >&3
    field "$out" "$kind"
    printf ' ' >&3
    field "$err" "$kind"
    printf '\n' >&3

    if ((++round % 64 == 0)); then
        rm -f "$folder"/out.* "$folder"/err.*
    else
        : >"$out" 2>"$err" # give the memory back
    fi
done
