#!/usr/bin/env bash
# Kills a component of the cluster in DIR, and starts it again after SECONDS as it was started. Usage: restart.sh DIR NAME [SECONDS]
set -euo pipefail
. "$(dirname "$(realpath "$0")")/lib.sh"

dir=$(realpath "${1:?usage: restart.sh DIR NAME [SECONDS]}")
name=${2:?usage: restart.sh DIR NAME [SECONDS]}
need_root
pid=$(running "$dir" "$name") || die "$name of $dir does not run"
mapfile -d '' -t command <"/proc/$pid/cmdline"
mapfile -d '' -t environment <"/proc/$pid/environ"
exec 8<"/proc/$pid/ns/mnt" # the node's, for its components
stop "$dir" "$name"
sleep "${3:-0}"
spawn "$dir" "$name" env -i "${environment[@]}" nsenter --mount=/proc/self/fd/8 --wd=/ "${command[@]}"
