#!/usr/bin/env bash
# Builds a program of this workspace as one static file for each architecture: static.sh PROGRAM [ARCH…], by default amd64 and arm64
#   AGENT_PROFILE (default release)
#   STATIC_LIBC   gnu (default), or musl for a smaller file of a program without C; gnu is taken where Rust lacks that target
# What is missing for one is said; the exit status is 1 when a build failed, or when none could begin.
# The same commit and toolchain give the same bytes, whatever the folders are called.
set -euo pipefail
cd "$(dirname "$0")/.."
program=${1:?the name of a program}
shift
profile=${AGENT_PROFILE:-release} target=${CARGO_TARGET_DIR:-target}
built=$profile
[[ $profile != dev ]] || built=debug
mkdir -p "$target"

sysroot=$(rustc --print sysroot)
commit=$(rustc --version --verbose | sed -n 's/^commit-hash: //p')
host=$(rustc --version --verbose | sed -n 's/^host: //p')
read -ra flags <<<"${RUSTFLAGS:-}"
flags+=(
	-Ctarget-feature=+crt-static
	# messages of panics name source files; the last that matches counts
	"--remap-path-prefix=$PWD=/ocne"
	"--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
	"--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$commit"
	"--remap-path-prefix=$(realpath "$target")=/target"
)
archs=("$@")
((${#archs[@]})) || archs=(amd64 arm64)
missing=()
for arch in "${archs[@]}"; do
	case $arch in
	amd64) triple=x86_64-unknown-linux-gnu gcc=x86_64-linux-gnu-gcc ;;
	arm64) triple=aarch64-unknown-linux-gnu gcc=aarch64-linux-gnu-gcc ;;
	*) echo "$program: $arch is neither amd64 nor arm64" >&2; exit 2 ;;
	esac
	if [[ ${STATIC_LIBC:-gnu} == musl ]]; then
		if rustc --print target-libdir --target "${triple/gnu/musl}" 2>/dev/null | xargs -I{} test -d {}; then
			# Rust brings the linker and all that is linked
			triple=${triple/gnu/musl} gcc=rust-lld
		else
			echo "$program: larger than it could be; hint: rustup target add ${triple/gnu/musl}" >&2
		fi
	fi
	# not an old one, when there is no new one
	rm -f "$target/$built/$program-$arch"
	if ! rustc --print target-libdir --target "$triple" 2>/dev/null | xargs -I{} test -d {}; then
		missing+=("$arch: the Rust target; hint: rustup target add $triple")
		continue
	fi
	tools=()
	if [[ $triple == "$host" ]]; then
		# naming a linker for the host would have Cargo rebuild all procedural macros and build scripts, now and after
		gcc=cc
	else
		name=${triple//-/_}
		tools=("CARGO_TARGET_${name^^}_LINKER=$gcc" "CC_$name=$gcc")
	fi
	if [[ $gcc != rust-lld ]] && ! command -v "$gcc" >/dev/null; then
		missing+=("$arch: $gcc; hint: make setup")
		continue
	fi
	# a linker that writes a build id makes it of what is stripped afterwards, paths included; Rust's own writes none
	all=("${flags[@]}")
	[[ $gcc == rust-lld ]] || all+=('-Clink-arg=-Wl,--build-id=none')
	CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${all[*]}") env "${tools[@]}" cargo build --profile "$profile" --locked --package "$program" --target "$triple"
	mkdir -p "$target/$built"
	cp "$target/$triple/$built/$program" "$target/$built/$program-$arch"
	echo "$program: $target/$built/$program-$arch, $(stat -c %s "$target/$built/$program-$arch") bytes"
done
for m in "${missing[@]}"; do echo "$program: not built for $m" >&2; done
((${#missing[@]} < ${#archs[@]}))
