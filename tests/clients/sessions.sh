#!/usr/bin/env bash
# Uses a session as a caller would: creates it with an empty POST, sends two prompts, lists it and deletes it.
# Prints the answers as lines of JSON.
set -euo pipefail
base=$1

session=$(curl -sSf -X POST "$base/api/sessions" | sed 's/.*"sessionId":"\([^"]*\)".*/\1/')
for prompt in first second; do
  curl -sSfN "$base/api/stream/$session" -H 'Content-Type: application/json' -d "{\"prompt\": \"$prompt\"}" |
    sed -n 's/^data: //p' | grep -E '"type":"(connected|completed)"'
done
curl -sSf "$base/api/sessions"
echo
curl -sSf -X DELETE "$base/api/sessions/$session"
echo
