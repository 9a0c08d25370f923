#!/bin/sh
# What slow storage costs a whole run: each read of a slide takes 5 ms, and all together 100 MB/s, as on a busy share
# (tests/shim/faults.c), with the default encoder (about 10 ms a tile and core). Runs with and without take turns.
#
#   benches/latency.sh SLIDE... [-- more words for embed]      TURNS=3 PARAFFIN=target/release/paraffin SLOW_US=5000 SLOW_MBPS=100
set -eu
cd "$(dirname "$0")/.."
paraffin=${PARAFFIN:-target/release/paraffin}
export SLOW_US="${SLOW_US:-5000}" SLOW_MBPS="${SLOW_MBPS:-100}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/archive"
[ $# -gt 0 ] || { echo "give the slides: benches/latency.sh SLIDE... [-- words]" >&2; exit 2; }
while [ $# -gt 0 ] && [ "$1" != "--" ]; do ln -s "$(realpath "$1")" "$work/archive/$(basename "$1")"; paths="${paths:-}|$(realpath "$1")"; shift; done
[ $# -eq 0 ] || shift
cc -O1 -shared -fPIC -o "$work/faults.so" tests/shim/faults.c -lpthread
# The shim knows files by their real path: what all of them share.
common=$(printf '%s\n' "$paths" | tr '|' '\n' | sed '/^$/d; s|/[^/]*$||' | sort -u | head -1)/
seconds() { # OUT; the rest are settings
    out=$1; shift
    start=$(date +%s.%N)
    env "$@" "$paraffin" embed "$work/archive" -o "$out" --progress lines --no-overviews $words 2> "$work/said" || { cat "$work/said" >&2; exit 1; }
    end=$(date +%s.%N)
    echo "$start $end" | awk '{ printf "%.2f", $2 - $1 }'
}
words="$*"
echo "turn  plain s  slow s  ratio  reads  $(uname -m), load $(cut -d' ' -f1 /proc/loadavg)"
turn=1
while [ $turn -le "${TURNS:-3}" ]; do
    rm -rf "$work/a" "$work/b"
    plain=$(seconds "$work/a" X=)
    slow=$(seconds "$work/b" SLOW="$common" LD_PRELOAD="$work/faults.so" FAULTS="read,$common,1,1,0" FAULTS_COUNT="$work/count")
    # The notes of runs hold times.
    diff -r -x runs "$work/a" "$work/b" > /dev/null || { echo "the outputs differ" >&2; exit 1; }
    echo "$turn $plain $slow $(head -1 "$work/count")" | awk '{ printf "%4d %8.2f %7.2f %6.2f %6d\n", $1, $2, $3, $3 / $2, $4 }'
    grep '^waited' "$work/said" | sed 's/^/      slow: /'
    turn=$((turn + 1))
done
