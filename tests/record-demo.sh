#!/usr/bin/env bash
# Runs `stackctl demo` and puts what it shows into README.md, between the two marks. What differs from run to
# run is made the same by demo.sed, so that the recording changes only when the demo does.
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
