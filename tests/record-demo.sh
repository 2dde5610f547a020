#!/usr/bin/env bash
# Runs `stackctl demo` and writes its output into README.md, between the two markers. demo.sed replaces everything
# that differs from run to run, so that the recording changes only when the demo does.
set -euo pipefail
cd "$(dirname "$0")/.."

recording=$(mktemp)
trap 'rm -f "$recording"' EXIT
cargo build --quiet --release --package stackctl
NO_COLOR=1 cargo stack demo | sed -E -f tests/demo.sed | sed -e '1{/^$/d}' > "$recording"

awk -v recording="$recording" '
  /<!-- demo: begin -->/ { print; print "```text"; while ((getline line < recording) > 0) print line; print "```"; skip = 1 }
  /<!-- demo: end -->/ { skip = 0 }
  !skip && !/<!-- demo: begin -->/ { print }
' README.md > README.md.new
mv README.md.new README.md
