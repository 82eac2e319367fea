# The guest's side of an external test. Its unit and the harness talk by files in one folder: `event` says that the test
# has ended or wants a reboot, `mark` what it wants to be told afterwards, `invocation` which lines of the journal are its
# own. Bash and coreutils are all it needs.
#
#   guest.sh install         called by the harness: makes both of the following
#   guest.sh reboot MARK     called by the test as /tmp/autopkgtest-reboot
#   guest.sh prepare MARK    called by the test as /tmp/autopkgtest-reboot-prepare; it then reboots as it likes
#   guest.sh ended           called by systemd when the test has ended (ExecStopPost)
#   guest.sh await SECONDS   called by the harness: prints the event and the mark, or nothing after so many seconds

folder=/run/image-harness-external
pause() { # on a pipe that never has anything to read: that sleeps without a fork each time
    { : >&4; } 2>/dev/null || exec 4<> <(:)
    read -r -t "$1" -u 4
}

tell() { # whole or not at all
    printf '%s' "${INVOCATION_ID-}" >"$folder/invocation"
    printf '%s\n' "$1" >"$folder/event.new"
    mv "$folder/event.new" "$folder/event"
}

ask_for_reboot() {
    if [[ ! -e $folder/may-reboot ]]; then
        echo "a test with 'exclusive: false' shares its machine and may not reboot it" >&2
        exit 1
    fi
    if [[ -z ${2-} ]]; then
        echo "usage: autopkgtest-reboot MARK" >&2
        exit 1
    fi
    rm -f "$folder/acknowledged"
    printf '%s' "$2" >"$folder/mark"
    tell "$1"
}

case ${1-} in
install)
    for how in reboot prepare; do
        script=/tmp/autopkgtest-reboot
        [[ $how == reboot ]] || script+=-$how
        printf '#!/bin/bash\nexec /bin/bash %s/guest.sh %s "$@"\n' "$folder" "$how" >"$script" && chmod 755 "$script" || exit
    done
    ;;
reboot)
    ask_for_reboot "$@"
    while :; do pause 60; done # until the machine goes down
    ;;
prepare)
    ask_for_reboot "$@"
    until [[ -e $folder/acknowledged ]]; do pause 0.1; done
    ;;
ended)
    tell "ended $SERVICE_RESULT ${EXIT_CODE:--} ${EXIT_STATUS:--}"
    ;;
await)
    limit=$((SECONDS + $2))
    until [[ -e $folder/event ]]; do
        ((SECONDS < limit)) || exit 0
        pause 0.1
    done
    cat "$folder/event"
    [[ ! -e $folder/mark ]] || cat "$folder/mark"
    ;;
*)
    exit 2
    ;;
esac
