#!/usr/bin/env bash
# Times the program beside its peers on the same files in one run; prints seconds, ratios and peak memory as a Markdown table.
#   BENCH_PAYLOAD_MIB (default 1500): content of the image; BENCH_ROUNDS (default 3): the best of so many is taken
#   BENCH_DIR (default /var/tmp): needs about 12 GB
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
OCNE=$PWD/target/release/ocne
PAYLOAD=${BENCH_PAYLOAD_MIB:-1500} ROUNDS=${BENCH_ROUNDS:-3}
for tool in qemu-img skopeo docker-registry python3; do
	command -v "$tool" >/dev/null || { echo "bench: $tool is not installed; hint: make setup" >&2; exit 1; }
done
[[ $EUID -eq 0 ]] || { echo "bench: needs root to make the image (the program itself does not)" >&2; exit 1; }

work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/ocne-bench.XXXXXX")
registry=''
cleanup() {
	local rc=$?
	[[ -z $registry ]] || kill "$registry" 2>/dev/null || true
	rm -rf "$work"
	exit "$rc"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

image=$work/boot.qcow2 archive=$work/boot.oci-archive layer=$work/layer.gz
echo "bench: making an image with $PAYLOAD MiB of content" >&2
tests/fixtures/make-ock-image.sh --out "$image" --oci-archive "$archive" --payload-mib "$PAYLOAD" --work-dir "$work" >/dev/null 2>"$work/log" ||
	{ tail "$work/log" >&2; exit 1; }
python3 - "$archive" "$layer" <<'PY'
import shutil, sys, tarfile
with tarfile.open(sys.argv[1]) as tar:
    biggest = max(tar.getmembers(), key=lambda m: m.size)
    with open(sys.argv[2], "wb") as out:
        shutil.copyfileobj(tar.extractfile(biggest), out, 1 << 20)
PY

timed() { python3 scripts/timed.py "$work/results.json" "$@"; }
create() { timed "$1" env HOME="$work/home" "$OCNE" image create -t oci -a amd64 --builder local --progress none -o "$work/out.oci" "${@:2}"; }

port=$((20000 + RANDOM % 20000))
mkdir "$work/registry"
cat >"$work/registry.yml" <<YML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$port"}
YML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry=$!
skopeo copy --quiet --retry-times 5 --dest-tls-verify=false "oci-archive:$archive" "docker://127.0.0.1:$port/ock:1.33"

for ((i = 0; i < ROUNDS; i++)); do
	echo "bench: round $((i + 1)) of $ROUNDS" >&2
	timed "cp and sync" sh -c "cp --reflink=never '$image' '$work/copy' && sync '$work/copy'"
	rm -f "$work/copy"
	timed "gunzip of the layer and sync" sh -c "gzip -dc '$layer' >'$work/copy' && sync '$work/copy'"
	rm -rf "$work/copy" "${work:?}/home" "$work/out.oci"
	mkdir "$work/home"
	create "create, cold, archive" --image "oci-archive:$archive"
	rm -f "$work/out.oci"
	create "create, warm" --image "oci-archive:$archive"
	rm -f "$work/out.oci"
	create "create, --file" --file "$image"
	rm -rf "${work:?}/home" "$work/out.oci"
	mkdir "$work/home"
	timed "skopeo copy to dir:" skopeo copy --quiet --src-tls-verify=false "docker://127.0.0.1:$port/ock:1.33" "dir:$work/dir"
	rm -rf "$work/dir"
	create "create, cold, registry" --image "docker://127.0.0.1:$port/ock:1.33"
	rm -rf "$work/out.oci"
	if command -v qemu-storage-daemon >/dev/null; then
		timed "mount path" tests/fixtures/convert-by-mount.sh --in "$image" --out "$work/mounted" --via fuse --uncompressed --work-dir "$work"
		rm -f "$work/mounted"
	fi
done
timed "qemu-img convert -c -m 16 -W" qemu-img convert -c -m 16 -W -O qcow2 "$image" "$work/qemu.qcow2"
create "create --recompress zlib" --image "oci-archive:$archive" --recompress zlib
zlib=$(stat -c %s "$work/out.oci")
rm -f "$work/out.oci"
timed "qemu-img convert, zstd" qemu-img convert -c -m 16 -W -O qcow2 -o compression_type=zstd "$image" "$work/qemu-zstd.qcow2"
create "create --recompress zstd" --image "oci-archive:$archive" --recompress zstd
python3 - "$work/results.json" "$image" "$work/qemu.qcow2" "$zlib" "$work/qemu-zstd.qcow2" "$work/out.oci" <<'PY'
import json, os, sys
r = json.load(open(sys.argv[1]))
size = [v if v.isdigit() else os.path.getsize(v) for v in sys.argv[2:]]
size = [int(v) for v in size]
print(f"Image: {size[0]} bytes.\n\n| what | seconds | CPU seconds | peak MiB |\n| --- | ---: | ---: | ---: |")
for name, v in r.items():
    print(f"| {name} | {v['seconds']:.2f} | {v['cpu']:.2f} | {v['mib']:.0f} |")
print("\n| ratio | wanted | measured |\n| --- | ---: | ---: |")


def ratio(text, a, b, wanted):
    if a in r and b in r:
        print(f"| {text} | {wanted} | {r[a]['seconds'] / r[b]['seconds']:.2f} |")


ratio("warm create / cp and sync", "create, warm", "cp and sync", "≤ 1.2")
ratio("cold create / gunzip and sync", "create, cold, archive", "gunzip of the layer and sync", "≤ 1.0")
ratio("mount path / warm create", "mount path", "create, warm", "≥ 3")
ratio("cold create from a registry / skopeo copy to dir:", "create, cold, registry", "skopeo copy to dir:", "≤ 1.0")
ratio("qemu-img -c / create --recompress zlib", "qemu-img convert -c -m 16 -W", "create --recompress zlib", "≥ 2.5")
ratio("qemu-img zstd / create --recompress zstd", "qemu-img convert, zstd", "create --recompress zstd", "")
print(f"| size, ours zlib / qemu-img's | ≤ 1.0 | {size[2] / size[1]:.3f} |\n| size, ours zstd / qemu-img's | ≤ 1.0 | {size[4] / size[3]:.3f} |")
peak = max(v["mib"] for n, v in r.items() if n in ("create, warm", "create, cold, archive", "create, cold, registry"))
print(f"| peak memory of create, MiB | ≤ 128 | {peak:.0f} |")
PY

if tests/cluster/setup.sh >"$work/log" 2>&1 && scripts/agent.sh amd64 >>"$work/log" 2>&1; then
	echo
	scripts/bench-cluster.py "$image"
else
	echo "SKIPPED builds in a pod: $(tail -n 1 "$work/log")" >&2
fi
echo
scripts/bench-ostree.sh
scripts/bench-ostree.sh files 1
scripts/bench-copy.sh
scripts/bench-serve.sh
echo
scripts/bench-upload.sh
