#!/usr/bin/env bash
# Installs the Debian packages that the tests need, and what they bring along. Without root it installs no package and says
# what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(
	# building: ring and zstd compile C
	gcc libc6-dev make git
	# making boot images, and judging them
	attr dosfstools gdisk mtools ostree parted python3 qemu-utils qemu-system-common xfsprogs
	# registries and transports
	apache2-utils docker-registry openssl podman skopeo
	# booting
	cpio grub-common grub-efi-amd64-bin mmdebstrap ovmf qemu-system-x86 zstd
	# lint, the network files and man pages
	busybox-static dash jq curl man-db shellcheck
	# the emulator of Oracle Cloud
	python3-venv
	# the arm64 program of builder pods: built here, run here
	gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
)

missing=()
for p in "${PACKAGES[@]}"; do
	dpkg-query --show --showformat '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing+=("$p")
done
# the one-node Kubernetes of the tests: its packages, and the program that it is
cluster() {
	if [[ $EUID -ne 0 ]]; then
		echo "setup: no root, so the tests on a cluster are skipped" >&2
	elif ! tests/cluster/setup.sh; then
		echo "setup: the tests on a cluster are skipped, for the reason above" >&2
	fi
}

# the emulator of Oracle Cloud: a virtual environment beside it, and one for Oracle's own clients
oracle_cloud() {
	if ! tests/peers/oracle-cloud/setup.sh --clients; then
		echo "setup: the tests of uploads, or those with Oracle's clients, are skipped, for the reason above" >&2
	fi
}

# a registry that gives tokens: one small Go program
token_registry() {
	if ! tests/peers/token-registry/setup.sh; then
		echo "setup: the tests of registries with tokens are skipped, for the reason above" >&2
	fi
}

# Rust's libraries for arm64 and for musl, wherever this user's rustup can bring them
targets() {
	local triple reason
	for triple in aarch64-unknown-linux-{gnu,musl} x86_64-unknown-linux-musl; do
		[[ ! -d $(rustc --print target-libdir --target "$triple" 2>/dev/null) ]] || continue
		if ! command -v rustup >/dev/null; then
			reason='there is no rustup; hint: install the Rust library of your distribution for it'
		elif ! reason=$(timeout 300 rustup --quiet target add "$triple" 2>&1); then
			reason="rustup could not bring it: $(tail -n 1 <<<"${reason:-no answer in 300 s}")"
		else
			continue
		fi
		case $triple in
		*gnu) echo "setup: no Rust target $triple, so the arm64 agent is not built, and its tests are skipped: $reason" >&2 ;;
		*) echo "setup: no Rust target $triple, so ocne-serve is larger than it could be: $reason" >&2 ;;
		esac
	done
}

targets
if ((${#missing[@]} == 0)); then
	echo "setup: all ${#PACKAGES[@]} packages are installed"
	oracle_cloud
	token_registry
	cluster
	exit 0
fi
if ! command -v apt-get >/dev/null; then
	echo "setup: not a Debian system; the tests that need these are skipped: ${missing[*]}" >&2
	exit 0
fi
if [[ $EUID -ne 0 ]]; then
	echo "setup: no root, so nothing is installed; the tests that need these are skipped: ${missing[*]}" >&2
	echo "hint: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 0
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "setup: apt-get failed; see above" >&2
	exit 1
fi
oracle_cloud
token_registry
cluster
echo "setup: done"
