#!/bin/sh
# Runs a step of the build. If it fails for lack of disk space or network, the last line says so, and what to do.
#
#   tools/attempt.sh [-q] WHAT COMMAND [ARGUMENT...]     -q: its output is shown only if the error is not recognised
#
# It must never change what the command does, nor hide a failure.
set -eu
quiet=
if [ "$1" = -q ]; then quiet=yes && shift; fi
what=$1 && shift

scratch=${TMPDIR:-/tmp}
log=$(mktemp 2>/dev/null) || { echo "make: no space left in $scratch: free some, then run the same command again" >&2 && exit 1; }
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM HUP

export LC_ALL=C.UTF-8 # the words looked for below
if [ -n "$quiet" ]; then
    code=0
    "$@" >"$log" 2>&1 || code=$?
else
    # The pipe would hide the exit code.
    exec 4>&2
    code=$({ { set +e && "$@" 2>&1; echo $? >&3; } | tee "$log" >&4; } 3>&1)
fi
if [ "$code" = 0 ]; then exit 0; fi

says() { grep -qE "$1" "$log"; }
if says 'No space left on device|Disk quota exceeded|[Ee]rr(no|or) 28\b'; then
    full=$(df --output=target . "$scratch" | sed 1d | sort -u | xargs | sed 's, , or ,')
    why="no space left in $full: free some"
elif says 'NewConnection|NameResolution|[Cc]ould not (resolve|connect)|[Cc]onnection (refused|reset|timed out|broken)' ||
    says 'Network is unreachable|from versions: none|Max retries exceeded|Read timed out|ProxyError|failed to download|spurious network error'; then
    why="cannot reach a package registry: check the network (or the proxy)"
else
    if [ -n "$quiet" ]; then cat "$log" >&2; fi
    echo "make: $what failed, see above; once that is fixed, run the same command again" >&2
    exit "$code"
fi
echo "make: $what: $why, then run the same command again" >&2
exit "$code"
