#!/usr/bin/env bash
# Times `ocne image create --type ostree` beside the reference conversion (ostree-ext, `ostree pull-local`, tar, gzip) on
# the same image, in one run, and prints ratios and peak memory: bench-ostree.sh [PAYLOAD_MIB|files] [ROUNDS]; `files` are those of this machine's
# /usr/bin, /usr/sbin and /usr/share
#   OCNE             the program (default: a release build of this tree)
#   OSTREE_EXT_CLI   the reference's program (default: built by tests/fixtures/ostree/make-encapsulated.sh, once)
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8
payload=${1:-1024} rounds=${2:-3}
fixtures=$PWD/tests/fixtures/ostree
target=${CARGO_TARGET_DIR:-target}
if [[ -z ${OCNE:-} ]]; then
	cargo build --release --locked --quiet --package ocne
	OCNE=$target/release/ocne
fi
ocne=$(realpath "$OCNE")
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}" ocne-bench-ostree.XXXXXX)
trap 'rm -rf "$work"' EXIT
export OCNE_HOME=$work/home

if [[ $payload == files ]]; then
	echo "bench: making an image of files of this machine"
	tar -C / --owner=0 --group=0 -cf "$work/tree.tar" usr/bin usr/sbin usr/share
else
	echo "bench: making an image of $payload MiB"
	python3 "$fixtures/mktree.py" --tar "$work/tree.tar" --manifest "$work/tree.json" --payload-mib "$payload"
fi
ostree --repo="$work/repo" init --mode=archive
ostree --repo="$work/repo" commit --branch=ock --tree=tar="$work/tree.tar" --tar-autocreate-parents --fsync=false --subject=bench >/dev/null
"$fixtures/encapsulate.py" "$work/repo" ock "$work/source.ociarchive" --chunks 20 >/dev/null
rm -rf "$work/repo" "$work/tree.tar"
mkdir "$work/empty"
tar -C "$work" -cf "$work/base.tar" empty
python3 "$fixtures/ociarchive.py" append - "$work/base.tar" "$work/base.ociarchive" --gzip 6

cli=$("$fixtures/make-encapsulated.sh" --cli 2>"$work/log") || tail -n 3 "$work/log" >&2
timed() { # timed NAME COMMAND...: wall seconds, processor seconds, peak KiB
	local name=$1
	shift
	/usr/bin/time -f "$name %e %U %S %M" -a -o "$work/times" "$@" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; return 1; }
}
for ((i = 0; i < rounds; i++)); do
	for level in 6 1; do
		timed "ocne-$level" "$ocne" image create -t ostree -a amd64 -q --image "oci-archive:$work/source.ociarchive" \
			--base "oci-archive:$work/base.ociarchive" --compression "$level" -o "$work/out.tar"
	done
	if [[ -x $cli ]]; then
		for gzip in '' '--gzip 6'; do
			rm -rf "$work/reference"
			# shellcheck disable=SC2086 # no option, or two words
			OSTREE_EXT_CLI=$cli timed "reference${gzip/ /}" "$fixtures/make-archive-image.sh" "$work/source.ociarchive" "$work/reference.tar" \
				--work "$work/reference" --base "$work/base.ociarchive" $gzip
		done
	fi
done
[[ -x $cli ]] || echo "SKIPPED the reference conversion: it cannot be built; hint: tests/fixtures/ostree/make-encapsulated.sh --install-deps --cli"
python3 - "$work/times" <<'P'
import statistics, sys
runs = {}
for line in open(sys.argv[1]):
    name, *numbers = line.split()
    runs.setdefault(name, []).append([float(n) for n in numbers])
print(f"{'':18} {'wall s':>8} {'cpu s':>8} {'peak MiB':>9}   (median of {len(next(iter(runs.values())))})")
wall = {}
for name, all in runs.items():
    wall[name] = statistics.median(r[0] for r in all)
    print(f"{name:18} {wall[name]:8.2f} {statistics.median(r[1] + r[2] for r in all):8.2f} {max(r[3] for r in all) / 1024:9.0f}")
for name in wall:
    if name.startswith("reference"):
        print(f"ocne-6 is {wall[name] / wall['ocne-6']:.1f} times as fast as {name}")
P
