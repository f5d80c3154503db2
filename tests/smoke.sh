#!/usr/bin/env bash
# A demo cluster of three nodes under real input: imports a word list while leaders are killed with -9 and started again,
# exports it, and compares byte for byte (P6, P9). Then a short bench, and a look that no process is left.
#
#   tests/smoke.sh [WORDS]      a file of at least 100,000 different lines [default: the largest of /usr/share/dict]
#
# BIN says where kvctl and kvserver are [default: target/release]. Needs bash and /proc.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly WORDS_MIN=100000 KILLS=3 BENCH_SECONDS=5
bin=$(cd "${BIN:-target/release}" && pwd)
words=${1:-$(find /usr/share/dict -type f -printf '%s %p\n' 2>/dev/null | sort -n | tail -n 1 | cut -d ' ' -f 2)}
work=$(mktemp -d "${TMPDIR:-/tmp}/synod-smoke.XXXXXX")
data=$work/demo
demo=

say() { printf '%s smoke: %s\n' "$(date +%T)" "$*"; }

die() {
  # To stderr, since some callers are captured.
  {
    say "FAILED: $*"
    tail -n 15 "$work"/*.log "$data"/n*/kvserver.log || true
  } >&2
  exit 1
}

# Processes whose command line names the demo's directory, but for this script's own children.
left() {
  local line
  for line in /proc/[0-9]*/cmdline; do
    if { tr '\0' ' ' <"$line"; } 2>/dev/null | grep -qF "kvserver --config $data/"; then
      line=${line#/proc/}
      echo "${line%/cmdline}"
    fi
  done
}

end() {
  if [ -n "$demo" ]; then kill "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap end EXIT

kvctl() { KVCTL_DEMO=$data "$bin/kvctl" --timeout 20s "$@"; }

# The leader of a group, once it has one.
leader() {
  local group=$1 found
  for _ in $(seq 100); do
    found=$(kvctl -o json status 2>/dev/null | tr -d ' \n' | sed -n "s/.*\"id\":$group,\"keys\":[0-9a-z]*,\"leader\":\([0-9]*\).*/\1/p")
    if [ -n "$found" ]; then echo "$found"; return; fi
    sleep 0.1
  done
  die "group $group has no leader"
}

[ -f "$words" ] || die "no word list: install one, such as wamerican-huge, or name a file"
# A record a word; a word that comes twice would be one record.
awk '!seen[$0]++ { print $0 "\t" NR }' "$words" >"$work/words.tsv"
records=$(wc -l <"$work/words.tsv")
[ "$records" -ge $WORDS_MIN ] || die "$words has $records different lines, $WORDS_MIN are needed"
say "$records records of $words"

mkdir "$data"
"$bin/kvctl" demo --no-shell --data-dir "$data" --base-port 0 >"$work/demo.log" 2>&1 &
demo=$!
for _ in $(seq 300); do
  if [ -s "$data/demo.json" ]; then break; fi
  kill -0 "$demo" 2>/dev/null || die "the demo ended at its start"
  sleep 0.1
done
[ -s "$data/demo.json" ] || die "the demo isn't ready after 30 s"
say "three nodes: $(head -n 1 "$work/demo.log")"

# Few in flight: it must last longer than the kills, however fast the machine.
kvctl -o json import "$work/words.tsv" --format tsv --in-flight 64 >"$work/import.json" 2>"$work/import.log" &
import=$!
for kill in $(seq $KILLS); do
  sleep 0.3
  node=$(leader $((1 + kill % 2)))
  kvctl fault kill --node "$node" >>"$work/faults.log" 2>&1 || die "n$node couldn't be killed"
  kill -0 "$import" 2>/dev/null || die "the import was over before kill $kill of $KILLS"
  say "killed n$node, a leader, with -9"
  sleep 0.5
  kvctl fault start --node "$node" >>"$work/faults.log" 2>&1 || die "n$node didn't start again"
done
wait "$import" || die "the import failed: $(cat "$work/import.log")"
say "import: $(tr -d '\n' <"$work/import.json")"

kvctl export --format tsv >"$work/export.tsv" 2>"$work/export.log" || die "the export failed"
LC_ALL=C sort -s -t "$(printf '\t')" -k 1,1 "$work/words.tsv" >"$work/expected.tsv"
cmp "$work/expected.tsv" "$work/export.tsv" || die "what was exported isn't what was imported"
say "$(tail -n 1 "$work/export.log"), byte for byte what was imported"

figures=$(kvctl bench --workload put --clients 256 --seconds $BENCH_SECONDS 2>>"$work/bench.log") || die "the bench failed"
say "bench: $figures"
case $figures in *"errors 0") ;; *) die "operations failed although nothing was broken" ;; esac

kill -TERM "$demo"
wait "$demo" || die "the demo ended with exit code $?"
demo=
remaining=$(left)
[ -z "$remaining" ] || die "processes are left: $remaining"
say "stopped, no process is left"
