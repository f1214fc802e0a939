#!/usr/bin/env bash
# Times pushes and pulls of an image to Debian's docker-registry on loopback by `ocne image copy` and by `skopeo copy`, in one run, and a push of
# what is there already: bench-copy.sh [MIB] [ROUNDS]
#   OCNE   the program (default: a release build of this tree)
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8
mib=${1:-1024} rounds=${2:-3} layers=10
if [[ -z ${OCNE:-} ]]; then
	cargo build --release --locked --quiet --package ocne
	OCNE=${CARGO_TARGET_DIR:-target}/release/ocne
fi
ocne=$(realpath "$OCNE")
for tool in docker-registry skopeo python3 curl; do
	command -v "$tool" >/dev/null || { echo "SKIPPED bench-copy: no $tool; hint: make setup"; exit 0; }
done
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}" ocne-bench-copy.XXXXXX)
registry=
# shellcheck disable=SC2317 # by the trap
clean() {
	[[ -z $registry ]] || kill "$registry" 2>/dev/null || true
	rm -rf "$work"
}
trap clean EXIT
export OCNE_HOME=$work/home

echo "bench: an image of $mib MiB in $layers layers that cannot be compressed"
python3 - "$work/image" "$mib" "$layers" <<'P'
import hashlib, json, os, pathlib, sys
root, mib, count = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
blobs = root / "blobs/sha256"
blobs.mkdir(parents=True)
def put(content):
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}
layers = []
for n in range(count):
    size = mib * 2**20 // count // 512 * 512
    # A tar file of one file; what is in it does not matter.
    import io, tarfile
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(f"noise{n}")
        info.size = size
        tar.addfile(info, io.BytesIO(os.urandom(size)))
    layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar", **put(out.getvalue())})
config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [l["digest"] for l in layers]}}
manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(json.dumps(config).encode())}, "layers": layers}
entry = {"mediaType": manifest["mediaType"], **put(json.dumps(manifest).encode())}
(root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
(root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
P
cat >"$work/registry.yml" <<Y
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:0"}
Y
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sed -i "s/127.0.0.1:0/127.0.0.1:$port/" "$work/registry.yml"
begin() { # a registry with nothing in it
	rm -rf "$work/registry"
	docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
	registry=$!
	until curl -fs "http://127.0.0.1:$port/v2/" >/dev/null; do sleep 0.05; done
}
end() {
	kill "$registry" && wait "$registry" || true
	registry=
}
timed() { # timed NAME COMMAND...
	local name=$1
	shift
	sync
	/usr/bin/time -f "$name %e %U %S %M" -a -o "$work/times" "$@" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; return 1; }
}
at=docker://127.0.0.1:$port/bench:1
for ((i = 0; i < rounds; i++)); do
	begin
	timed skopeo-push skopeo copy -q --preserve-digests --dest-tls-verify=false "oci:$work/image" "$at"
	end
	begin
	timed ocne-push "$ocne" image copy -q --insecure-registry "127.0.0.1:$port" "oci:$work/image" "$at"
	timed ocne-again "$ocne" image copy -q --insecure-registry "127.0.0.1:$port" "oci:$work/image" "$at"
	((i + 1 == rounds)) || end
done
# One after the other from the same registry, so that both find the machine's memory alike; each once before it counts.
for ((i = -1; i < rounds; i++)); do
	((i != 0)) || sed -i '/-pull /d' "$work/times"
	timed skopeo-pull skopeo copy -q --preserve-digests --dest-oci-accept-uncompressed-layers --src-tls-verify=false "$at" "oci:$work/pulled"
	rm -rf "$work/pulled"
	timed ocne-pull "$ocne" image copy -q --insecure-registry "127.0.0.1:$port" "$at" "oci:$work/pulled"
	rm -rf "$work/pulled"
done
end
python3 - "$work/times" <<'P'
import statistics, sys
runs = {}
for line in open(sys.argv[1]):
    name, *numbers = line.split()
    runs.setdefault(name, []).append([float(n) for n in numbers])
wall = {}
print(f"{'':12} {'wall s':>8} {'cpu s':>8} {'peak MiB':>9}   (median of {len(next(iter(runs.values())))})")
for name, all in runs.items():
    wall[name] = statistics.median(r[0] for r in all)
    print(f"{name:12} {wall[name]:8.2f} {statistics.median(r[1] + r[2] for r in all):8.2f} {max(r[3] for r in all) / 1024:9.0f}")
for what in ("push", "pull"):
    print(f"{what}: ocne is {wall['skopeo-' + what] / wall['ocne-' + what]:.2f} times as fast as skopeo (wanted: 1.3)")
print(f"ten layers that are there: {wall['ocne-again']:.2f} s (wanted: 0.2)")
P
