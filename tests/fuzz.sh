#!/usr/bin/env bash
# Runs the properties of all parsers of hostile input (tests in modules `fuzz`) for FUZZ_SECONDS each, all at the same time
# and at the lowest priority. Exits with 1 if one does not hold, and prints the input.
set -euo pipefail
cd "$(dirname "$0")/.."
export FUZZ_SECONDS=${FUZZ_SECONDS:-60}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

packages=()
while read -r crate; do
    packages+=(--package "$crate")
done < <(grep -rl 'properties::fuzz!' crates/*/src | cut -d / -f 2 | sort -u)
((${#packages[@]})) || { echo "fuzz.sh: no crate has properties" >&2; exit 1; }

# cargo prints `Executable unittests src/lib.rs (target/debug/deps/…)`.
nice -n 19 cargo test --lib --no-run "${packages[@]}" 2>&1 | tee "$logs/build" | grep -v '^ *Executable' >&2 || true
mapfile -t programs < <(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$logs/build")
if ((${#programs[@]} * 2 != ${#packages[@]})); then
    echo "fuzz.sh: the tests could not be built" >&2
    exit 1
fi

pids=()
for program in "${programs[@]}"; do
    # A thread for each property. All share the processors, so the whole takes FUZZ_SECONDS.
    nice -n 19 "$program" fuzz:: --test-threads 64 >"$logs/$(basename "$program").log" 2>&1 &
    pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do
    wait "$pid" || failed=1
done
for log in "$logs"/*.log; do
    if ((failed)) && ! grep -q '^test result: ok' "$log"; then cat "$log"; fi
done
count=$(cat "$logs"/*.log | grep -c '^test .* \.\.\. ')
echo "fuzz.sh: $count properties, $FUZZ_SECONDS s each: $( ((failed)) && echo "at least one does not hold" || echo "all hold")"
((count >= ${#programs[@]})) || failed=1
exit "$failed"
