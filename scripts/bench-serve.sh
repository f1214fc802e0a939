#!/usr/bin/env bash
# Times `ocne-serve` beside nginx: requests a second and the 99th percentile by ab, for a ref, an object of 20 KiB and one of 1 MiB, and an
# `ostree pull` of a whole repository: bench-serve.sh [REQUESTS] [ROUNDS]
#   NGINX_ROOT   folder with usr/sbin/nginx and its libraries, as tests/fixtures/ostree/make-nginx-base.sh --work DIR leaves in DIR/root (default: nginx of this machine, or one that is made so); root
#   SERVE        the server (default: a release build of this tree)
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8
requests=${1:-20000} rounds=${2:-3}
fixtures=$PWD/tests/fixtures/ostree
for tool in ab ostree python3 curl; do
	command -v "$tool" >/dev/null || { echo "SKIPPED bench-serve: no $tool; hint: make setup"; exit 0; }
done
made=
if [[ -z ${NGINX_ROOT:-} ]] && ! command -v nginx >/dev/null; then
	made=$(mktemp -d -p "${TMPDIR:-/var/tmp}" ocne-bench-nginx.XXXXXX)
	NGINX_ROOT=$made/root
	"$fixtures/make-nginx-base.sh" --work "$made" --output "$made/base.ociarchive" >"$made/log" 2>&1 || {
		echo "SKIPPED bench-serve: no nginx: $(tail -n 1 "$made/log"); hint: apt-get update, or NGINX_ROOT"
		rm -rf "$made"
		exit 0
	}
fi
nginx=(nginx) inside=
if [[ -n ${NGINX_ROOT:-} ]]; then
	nginx=(chroot "$NGINX_ROOT" /usr/sbin/nginx) inside=$NGINX_ROOT
fi
if [[ -z ${SERVE:-} ]]; then
	STATIC_LIBC=musl scripts/serve.sh amd64 >/dev/null
	SERVE=${CARGO_TARGET_DIR:-target}/small/ocne-serve-amd64
fi
serve=$(realpath "$SERVE")
work=$(mktemp -d -p "$inside/tmp" ocne-bench-serve.XXXXXX)
chmod 755 "$work"
pids=()
# shellcheck disable=SC2317 # by the trap
clean() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	wait || true
	rm -rf "$work" ${made:+"$made"}
}
trap clean EXIT
mkdir "$work/html"
python3 "$fixtures/mktree.py" --tar "$work/tree.tar" --manifest "$work/tree.json" --payload-mib 64
ostree --repo="$work/html/ostree" init --mode=archive
ostree --repo="$work/html/ostree" commit --branch=ock --tree=tar="$work/tree.tar" --tar-autocreate-parents --fsync=false --subject=bench >/dev/null
head -c 20480 /dev/urandom >"$work/html/small"
head -c 1048576 /dev/urandom >"$work/html/large"
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
a=$(port) b=$(port)
cat >"$work/nginx.conf" <<N
user root;
worker_processes auto;
pid ${work#"$inside"}/nginx.pid;
error_log /dev/null;
events { worker_connections 512; }
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 1000000;
	server { listen 127.0.0.1:$a; root ${work#"$inside"}/html; }
}
N
"${nginx[@]}" -c "${work#"$inside"}/nginx.conf" -g 'daemon off;' >/dev/null 2>&1 &
pids+=($!)
"$serve" --quiet --address 127.0.0.1 --port "$b" "$work/html" >/dev/null 2>&1 &
pids+=($!)
for p in "$a" "$b"; do
	for _ in $(seq 100); do
		curl -fso /dev/null "http://127.0.0.1:$p/small" && break
		sleep 0.05
	done
done
for ((i = 0; i < rounds; i++)); do
	for one in nginx:$a ocne-serve:$b; do
		for file in ostree/refs/heads/ock small large; do
			count=$requests
			[[ $file != large ]] || count=$((requests / 20))
			ab -q -k -c 16 -n "$count" "http://127.0.0.1:${one#*:}/$file" >"$work/ab" 2>/dev/null
			awk -v name="${one%:*} $file" '/^Requests per second/ {r = $4} /^Failed requests/ {f = $3} /^ *99%/ {p = $2} END {print name, r, p, f}' "$work/ab" >>"$work/times"
		done
		rm -rf "$work/pulled"
		ostree --repo="$work/pulled" init --mode=archive
		ostree --repo="$work/pulled" remote add --no-gpg-verify there "http://127.0.0.1:${one#*:}/ostree"
		sync
		began=$EPOCHREALTIME
		ostree --repo="$work/pulled" pull --disable-fsync there ock >/dev/null
		echo "${one%:*} pull $(python3 -c "print($EPOCHREALTIME - $began)") 0 0" >>"$work/times"
	done
done
python3 - "$work/times" <<'P'
import statistics, sys
runs = {}
for line in open(sys.argv[1]):
    who, what, *numbers = line.split()
    runs.setdefault((what, who), []).append([float(n) for n in numbers])
median = {key: [statistics.median(r[n] for r in all) for n in range(3)] for key, all in runs.items()}
print(f"{'':24} {'nginx':>10} {'ocne-serve':>10}   ratio")
for what in dict.fromkeys(what for what, _ in runs):
    (nr, np, nf), (r, p, f) = median[what, "nginx"], median[what, "ocne-serve"]
    if what == "pull":
        print(f"{'ostree pull, s':24} {nr:10.2f} {r:10.2f}   {nr / r:.2f}")
        continue
    print(f"{what + ', requests/s':24} {nr:10.0f} {r:10.0f}   {r / nr:.2f}")
    print(f"{what + ', p99 ms':24} {np:10.0f} {p:10.0f}   failed: {nf:.0f}, {f:.0f}")
P
