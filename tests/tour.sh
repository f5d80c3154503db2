#!/usr/bin/env bash
# Runs every command of the README's tour against a fresh demo cluster, in order, and prints what it says: each must succeed,
# or fail where the README shows an error. So the tour stays true, and its output can be pasted anew.
#
# BIN says where kvctl and kvserver are [default: target/release], BASE_PORT where the nodes listen [default: any free ports].
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
bin=$(cd "${BIN:-target/release}" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/synod-tour.XXXXXX")
export KVCTL_DEMO=$work/demo PATH=$bin:$PATH
demo=

end() {
  if [ -n "$demo" ]; then kill "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap end EXIT

# The commands of the tour, one a line: what must come out of it (ok or error), a tab, the command.
commands() {
  awk '
    function flush() { if (command != "") print (fails ? "error" : "ok") "\t" command; command = ""; fails = 0 }
    /^## / { flush(); tour = /^## A tour/ }
    /^```/ { flush(); fenced = !fenced }
    tour && fenced && /^\$ / { flush(); command = substr($0, 3) }
    tour && fenced && /^error\[/ { fails = 1 }
    END { flush() }' "$root/README.md"
}

mkdir "$work/demo"
kvctl demo --no-shell --data-dir "$work/demo" --base-port "${BASE_PORT:-0}" >"$work/demo.log" 2>&1 &
demo=$!
for _ in $(seq 300); do
  if [ -s "$work/demo/demo.json" ]; then break; fi
  sleep 0.1
done
cat "$work/demo.log"

cd "$work"
ran=0
while IFS=$'\t' read -r expected command; do
  # A trace goes on until it is interrupted; the models are a step of CI by themselves.
  case $command in
    "kvctl trace"*) run="timeout --foreground --signal INT 1 $command >trace.txt || [ \$? = 124 ]; head -n 9 trace.txt" ;;
    cargo* | pip* | python* | */model*) continue ;;
    *) run=$command ;;
  esac
  printf '\n$ %s\n' "$command"
  outcome=ok
  eval "$run" </dev/null || outcome=error
  if [ "$outcome" != "$expected" ]; then
    echo "tour: FAILED: $command: $outcome, the README shows $expected"
    exit 1
  fi
  ran=$((ran + 1))
done < <(commands)
[ "$ran" -gt 10 ] || { echo "tour: FAILED: only $ran commands found in the README"; exit 1; }
echo "tour: $ran commands do what the README shows"
