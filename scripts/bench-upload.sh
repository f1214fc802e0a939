#!/usr/bin/env bash
# Times `ocne image upload` beside `oci os object put` against the emulator of Oracle Cloud, in one run, and prints seconds, CPU
# seconds, peak memory and ratios: bench-upload.sh [MIB] [ROUNDS]
#   OCNE            the program (target/release/ocne)
#   BENCH_DIR       needs three times the size, best in memory (/var/tmp)
#   BENCH_SIZES     MiB of the sparse files whose peak memory is measured (205 2048 20480)
# Both sides share the processors with the emulator, which hashes what it gets.
set -euo pipefail
cd "$(dirname "$0")/.."
mib=${1:-2048} rounds=${2:-2}
peer=$PWD/tests/peers/oracle-cloud
python=${FAKEOCI_VENV:-$peer/.venv}/bin/python
oci=${OCI_CLIENT_VENV:-$peer/.venv-clients}/bin/oci
ocne=$(realpath "${OCNE:-${CARGO_TARGET_DIR:-target}/release/ocne}")
for tool in "$python" "$oci" "$ocne" qemu-img; do
	command -v "$tool" >/dev/null || { echo "bench: $tool is not there; hint: make setup build" >&2; exit 1; }
done
work=$(mktemp -d -p "${BENCH_DIR:-/var/tmp}" ocne-bench-upload.XXXXXX)
server=''
cleanup() {
	local rc=$?
	[[ -z $server ]] || kill "$server" 2>/dev/null || true
	rm -rf "$work"
	exit "$rc"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

timed() { TIMED_SERVER=$server python3 scripts/timed.py "$work/results.json" "$@"; }

serve() { # serve OPTIONS...: a fresh emulator
	if [[ -n $server ]]; then
		kill "$server"
		wait "$server" || true
	fi
	rm -rf "$work/cloud/data" "$work/cloud/ready.json" "${work:?}/home"
	mkdir -p "$work/home"
	"$python" "$peer/fakeoci.py" serve --dir "$work/cloud" --fresh --import-seconds 0.1 "$@" >/dev/null 2>"$work/emulator.log" &
	server=$!
	for ((i = 0; i < 200; i++)); do
		[[ ! -s $work/cloud/ready.json ]] || break
		sleep 0.1
	done
	endpoint=$(jq -r .endpoint "$work/cloud/ready.json")
	export HOME=$work/home OCI_CLI_CONFIG_FILE=$work/cloud/config OCI_CLI_ENDPOINT=$endpoint OCI_CLI_SUPPRESS_FILE_PERMISSIONS_WARNING=True SUPPRESS_LABEL_WARNING=True
}
bucket() { "$oci" --endpoint "$endpoint" os bucket create --name bench --compartment-id "$(jq -r '.compartments.sandbox' "$work/cloud/ready.json")" >/dev/null; }
ours() { # ours NAME FILE ARGUMENTS...: sent and its import begun; whose digest is there already is not read twice
	timed "$1" "$ocne" image upload -q -a amd64 -c sandbox -b bench --no-wait --force --overwrite -i bench -f "${@:2}"
}
# What nobody can be quicker than: the server's own share of the same machine.
only_send() { timed "$1" "$(dirname "$oci")/python" scripts/only-send.py "$endpoint" "$(jq -r .namespace "$work/cloud/ready.json")" bench "$2" 3; }
theirs() { timed "$1" "$oci" --endpoint "$endpoint" os object put --bucket-name bench --name theirs --file "$2" --force --parallel-upload-count "$3"; }

echo "bench: making a file of $mib MiB" >&2
dd if=/dev/urandom of="$work/raw" bs=1M count="$mib" status=none
qemu-img convert -f raw -O qcow2 "$work/raw" "$work/image.qcow2"
rm "$work/raw"
for rate in '' 8M; do
	for ((i = 0; i < rounds; i++)); do
		echo "bench: ${rate:-no} limit for each part, round $((i + 1)) of $rounds" >&2
		for count in 3 10; do
			serve ${rate:+--upload-rate "$rate"}
			bucket
			theirs "oci-cli, $count at once${rate:+, $rate/s each}" "$work/image.qcow2" "$count"
		done
		serve ${rate:+--upload-rate "$rate"}
		bucket
		only_send "a client that only sends${rate:+, $rate/s each}" "$work/image.qcow2"
		for format in qcow2 oci; do
			serve ${rate:+--upload-rate "$rate"}
			bucket
			ours "ocne, $format${rate:+, $rate/s each}" "$work/image.qcow2" --format "$format"
		done
	done
done
rm "$work/image.qcow2"
for size in ${BENCH_SIZES:-205 2048 20480}; do
	echo "bench: a sparse file of $size MiB" >&2
	truncate -s "${size}M" "$work/raw"
	qemu-img convert -f raw -O qcow2 -o preallocation=metadata "$work/raw" "$work/sparse.qcow2"
	rm "$work/raw"
	serve
	bucket
	# The bare image: zeros are holes at the emulator, and with the headers of an archive between them they are not.
	ours "ocne, sparse, $size MiB" "$work/sparse.qcow2" --format qcow2
	rm "$work/sparse.qcow2"
done
python3 - "$work/results.json" "$mib" <<'PY'
import json, sys
r, mib = json.load(open(sys.argv[1])), sys.argv[2]
print(f"File: {mib} MiB.\n\n| what | seconds | CPU seconds | the emulator's | peak MiB |\n| --- | ---: | ---: | ---: | ---: |")
for name, v in r.items():
    print(f"| {name} | {v['seconds']:.2f} | {v['cpu']:.2f} | {v['server']:.2f} | {v['mib']:.0f} |")
print("\n| figure | wanted | measured |\n| --- | ---: | ---: |")


def ratio(text, a, b, wanted, key="seconds"):
    print(f"| {text} | {wanted} | {r[a][key] / r[b][key]:.2f} |")


for count in 3, 10:
    ratio(f"oci-cli, {count} at once / ocne", f"oci-cli, {count} at once", "ocne, oci", "≥ 1.5")
    ratio(f"the same, 8 MiB/s for each part", f"oci-cli, {count} at once, 8M/s each", "ocne, oci, 8M/s each", "≥ 1")
ratio("oci-cli, 3 at once / a client that only sends, without any digest", "oci-cli, 3 at once", "a client that only sends", "")
ratio("archive / bare qcow2", "ocne, oci", "ocne, qcow2", "≤ 1.15")
ratio("the same, CPU", "ocne, oci", "ocne, qcow2", "", "cpu")
peak = max(v["mib"] for n, v in r.items() if n.startswith("ocne"))
print(f"| peak memory of ocne, MiB | ≤ 128 | {peak:.0f} |")
PY
