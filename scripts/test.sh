#!/usr/bin/env bash
# Every test, as CI runs it. What cannot run here prints a line with SKIPPED and is counted at the end.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
mkdir -p target
log=target/test.log
start=$SECONDS
rc=0
{
	cargo test --workspace --locked --no-fail-fast || rc=1
	# imago and qcow2-rs as oracles: a workspace of its own, because one of them switches logging off for a whole program
	cargo test --manifest-path tests/differential/Cargo.toml --locked --target-dir target/differential || rc=1
	exit "$rc"
} 2>&1 | tee "$log"
rc=${PIPESTATUS[0]}
passed=$(grep -E '^test result:' "$log" | grep -oE '[0-9]+ passed' | awk '{ n += $1 } END { print n + 0 }')
failed=$(grep -E '^test result:' "$log" | grep -oE '[0-9]+ failed' | awk '{ n += $1 } END { print n + 0 }')
ignored=$(grep -E '^test result:' "$log" | grep -oE '[0-9]+ ignored' | awk '{ n += $1 } END { print n + 0 }')
said=$(grep -cE '^SKIPPED ' "$log")
if ((rc != 0 && failed == 0)); then failed=1; fi # something did not even build
if ((said)); then
	echo "not run here:"
	grep -E '^SKIPPED ' "$log" | sort -u | sed 's/^/  /'
fi
echo "tests took $((SECONDS - start)) s"
# a test that says SKIPPED is counted by its runner as passed; one that is ignored is not
reported=$(grep -E '^SKIPPED ' "$log" | grep -vc ' (ignored)$')
echo "$((passed - reported)) passed, $failed failed, $((ignored + reported)) skipped"
exit "$rc"
