# The guest's end of the harness's channel: a root shell on a virtio-serial port, without a terminal.
#
# The host writes one line   <id> <base64 of a bash script>
# and is answered one line   <id> <exit code> <base64 of stdout> <base64 of stderr>
# with exactly one space between fields, so that an empty output is an empty field. Other lines are ignored.
# At its start this end writes the line `ready`; seeing it again means that the guest has booted again.
#
# One script runs at a time, in a subshell of its own without standard input. Bash and coreutils are all it needs.
# A fork costs some 30 ms in an emulated guest: there are three in a usual round (decode, run, encode).

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
    [[ -n $id && -n $code && $id != *[!A-Za-z0-9._-]* && $code != *[!A-Za-z0-9+/=]* ]] || continue
    script=$(base64 -d <<<"$code" 2>/dev/null) || continue
    line='' code=''

    # A daemon left behind by a script may still hold its output open, so no two rounds share files.
    out=$folder/out.$round err=$folder/err.$round
    (
        set --
        unset LC_ALL
        eval "$script"
    ) </dev/null >"$out" 2>"$err" 3>&- 4>&-
    status=$?

    printf '%s %d ' "$id" "$status" >&3
    [[ ! -s $out ]] || base64 -w0 "$out" >&3
    printf ' ' >&3
    [[ ! -s $err ]] || base64 -w0 "$err" >&3
    printf '\n' >&3

    if ((++round % 64 == 0)); then
        rm -f "$folder"/out.* "$folder"/err.*
    else
        : >"$out" 2>"$err" # give the memory back
    fi
done
