#!/usr/bin/env bash
# Runs every fuzz target for a number of seconds each: fuzz.sh SECONDS [TARGET…]
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${1:-60}
shift || true
if ! command -v cargo-fuzz >/dev/null; then
	echo "fuzz: installing cargo-fuzz"
	cargo install --quiet --locked cargo-fuzz
fi
targets=("$@")
if ((${#targets[@]} == 0)); then mapfile -t targets < <(cargo fuzz list); fi
# libFuzzer's coverage flags are unstable; the address sanitizer is of no use without unsafe code and costs half the speed
export RUSTC_BOOTSTRAP=1
failed=()
for t in "${targets[@]}"; do
	echo "fuzz: $t for $seconds s"
	log=$(mktemp)
	if ! cargo fuzz run --sanitizer none "$t" -- -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 >"$log" 2>&1; then
		failed+=("$t")
		tail -n 40 "$log"
	fi
	grep -E 'stat::number_of_executed_units|stat::peak_rss_mb' "$log" || true
	rm -f "$log"
done
if ((${#failed[@]})); then
	echo "fuzz: failed: ${failed[*]}; the inputs are in fuzz/artifacts" >&2
	exit 1
fi
echo "fuzz: ${#targets[@]} targets, nothing found"
