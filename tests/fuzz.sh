#!/usr/bin/env bash
# Runs the properties of all parsers of hostile input (tests in modules `fuzz`) for FUZZ_SECONDS each parser, as many at the
# same time as there are processors, and at the lowest priority. Exits with 1 if one does not hold, and prints the input, or
# does not end.
# Usage: tests/fuzz.sh [build | run]: only builds them, or only runs what was built. Without an argument, both.
set -euo pipefail
cd "$(dirname "$0")/.."
# How long a parser may take beyond its time until it counts as one that does not end.
readonly PATIENCE=300
programs=target/fuzz.programs
seconds=${FUZZ_SECONDS:-60}
[[ $seconds =~ ^[1-9][0-9]{0,5}$ ]] || { echo "fuzz.sh: FUZZ_SECONDS: must be a number of seconds" >&2; exit 1; }

# All libraries, because fewer packages could have other features, and the next build of all would begin anew.
build() {
    local said
    said=$(CARGO_TERM_COLOR=never cargo test --workspace --lib --no-run 2>&1) || { printf '%s\n' "$said" >&2; exit 1; }
    # cargo prints `Executable unittests src/lib.rs (target/debug/deps/…)`.
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p' <<<"$said" >"$programs"
}

# Prints a line for each parser: its program, its module and how many properties it has.
parsers() {
    local program
    while read -r program; do
        "$program" --list --format terse ::tests::fuzz:: | sed -n "s|^\(.*::fuzz::\).*: test\$|$program \1|p" | uniq -c
    done <"$programs" | awk '{ print $2, $3, $1 }'
}

# Usage: try_parser PROGRAM MODULE PROPERTIES LOG
try_parser() {
    local code=0
    FUZZ_SECONDS=$(((seconds + $3 - 1) / $3)) timeout --foreground --kill-after 10 $((seconds + PATIENCE)) \
        "$1" "$2" --test-threads 1 >"$4" 2>&1 || code=$?
    if ((code == 0)) && [[ $(grep -c '^test .* ok$' "$4") == "$3" ]]; then return; fi
    printf '\n== %s\n' "$2"
    cat "$4"
    ((code != 124)) || printf '\nfuzz.sh: it has not ended within %s s: the last property that it names may loop\n' $((seconds + PATIENCE))
    return 1
}

run() {
    local program module count failed=0 number=0 properties=0 wanted
    [[ ! -w /proc/self/autogroup ]] || echo 19 >/proc/self/autogroup
    logs=$(mktemp -d)
    trap 'rm -rf "$logs"' EXIT
    parsers >"$logs/parsers"
    while read -r program module count; do
        number=$((number + 1)) properties=$((properties + count))
        ((number <= $(nproc))) || wait -n || true
        { try_parser "$program" "$module" "$count" "$logs/$number" || touch "$logs/failed"; } &
    done <"$logs/parsers"
    wait
    [[ ! -e $logs/failed ]] || failed=1
    echo "fuzz.sh: $number parsers, $properties properties, $seconds s for each parser: $( ((failed)) && echo "not all hold" || echo "all hold")"
    wanted=$(grep -rl 'properties::fuzz!' crates/*/src | wc -l)
    ((number == wanted)) || { echo "fuzz.sh: but $wanted files have properties" >&2; failed=1; }
    return "$failed"
}

case ${1-} in
    build) build ;;
    # A session of its own: where the kernel divides its time among sessions, nice values only count within one.
    run)
        nice -n 19 setsid "$0" in-session &
        session=$!
        trap 'kill -- "-$session" 2>/dev/null || true' EXIT
        wait "$session"
        ;;
    in-session) run ;;
    '')
        "$0" build
        exec "$0" run
        ;;
    *) echo "Usage: tests/fuzz.sh [build | run]" >&2; exit 1 ;;
esac
