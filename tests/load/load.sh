#!/usr/bin/env bash
# The load test from the original documents: ten workflows at once, then a larger run. Every job must have exactly
# one terminal event, and every workflow must complete.
#
#   tests/load/load.sh --repo https://github.com/user/repo.git
#
# Set these with a flag or an environment variable:
#   --repo URL         REPO          the repository (required)
#   --url URL          STACK_URL     the stack            [http://127.0.0.1:5000]
#   --prompt TEXT      PROMPT        {i} is the number    [Create test{i}.txt]
#   --first N          FIRST         the first run's jobs, all at once             [10]
#   --jobs N           JOBS          the second run's jobs; 0 skips that run        [60]
#   --concurrency C    CONCURRENCY   how many of them run at once                   [20]
#   --jitter-ms MS     JITTER_MS     longest random wait before each of these jobs  [500]
#   --out DIRECTORY    OUT           where the results go                          [./load-results]
#   --stackctl FILE    STACKCTL      the program          [stackctl, else cargo stack]
#
# The exit codes are those of `stackctl load`.
set -euo pipefail

repo=${REPO:-}
url=${STACK_URL:-http://127.0.0.1:5000}
prompt=${PROMPT:-'Create test{i}.txt'}
first=${FIRST:-10}
jobs=${JOBS:-60}
concurrency=${CONCURRENCY:-20}
jitter_ms=${JITTER_MS:-500}
out=${OUT:-./load-results}
stackctl=${STACKCTL:-}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --repo | --url | --prompt | --first | --jobs | --concurrency | --jitter-ms | --out | --stackctl)
            if [ $# -lt 2 ]; then
                echo "error: $1 needs a value; see --help" >&2
                exit 2
            fi
            name=${1#--}
            printf -v "${name//-/_}" '%s' "$2"
            shift 2
            ;;
        *)
            echo "error: '$1' is not an option; see --help" >&2
            exit 2
            ;;
    esac
done

if [ -z "$repo" ]; then
    echo "error: --repo is missing; for example: --repo https://github.com/user/repo.git" >&2
    exit 2
fi
for number in "$first" "$jobs" "$concurrency" "$jitter_ms"; do
    case $number in
        '' | *[!0-9]*)
            echo "error: '$number' is not a number; see --help" >&2
            exit 2
            ;;
    esac
done

if [ -n "$stackctl" ]; then
    command=("$stackctl")
elif type stackctl >/dev/null 2>&1; then
    command=(stackctl)
else
    # The checkout that holds this script, wherever it is called from.
    root=$(cd "$(dirname "$0")/../.." && pwd)
    command=(cargo run --quiet --release --manifest-path "$root/Cargo.toml" --package stackctl --)
fi

mkdir -p "$out"

# One run: its name, the number of jobs, how many run at once, and the jitter.
run() {
    echo "== $1: $2 workflows, $3 at once"
    "${command[@]}" load --url "$url" --repo "$repo" --prompt "$prompt" \
        --jobs "$2" --concurrency "$3" --jitter-ms "$4" --all-complete \
        --json "$out/$1.json" --svg "$out/$1.svg"
}

run at-once "$first" "$first" 0
if [ "$jobs" -gt 0 ]; then
    run sustained "$jobs" "$concurrency" "$jitter_ms"
fi
echo "== no job was lost; the results are in $out"
