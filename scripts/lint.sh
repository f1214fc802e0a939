#!/usr/bin/env bash
# Everything that needs no running program: formatting, clippy, shellcheck, Python syntax, and the documents' rules.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
	echo "lint: $*"
	"$@"
}
run cargo fmt --all --check
run cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
for own in fuzz tests/differential; do # workspaces of their own
	if [[ -f $own/Cargo.toml ]]; then run cargo fmt --manifest-path "$own/Cargo.toml" --check; fi
done
RUSTDOCFLAGS='-D warnings' run cargo doc --workspace --no-deps --locked --quiet
mapfile -t scripts < <(git ls-files | while read -r f; do
	head -c 64 "$f" | head -n 1 | grep -aqE '^#!.*\b(ba|da)?sh\b' && echo "$f"
done)
if command -v shellcheck >/dev/null; then
	run shellcheck --severity=warning "${scripts[@]}"
else
	echo "lint: SKIPPED shellcheck: not installed; hint: make setup" >&2
fi
mapfile -t python < <(git ls-files '*.py')
run python3 -c 'import ast, sys
for f in sys.argv[1:]: ast.parse(open(f).read(), f)' "${python[@]}"
# a document under docs/decisions is numbered, and listed in its index
for f in docs/decisions/[0-9]*.md; do
	grep -q "(${f##*/})" docs/decisions/README.md || { echo "lint: $f is not in docs/decisions/README.md" >&2; exit 1; }
done
echo "lint: clean"
