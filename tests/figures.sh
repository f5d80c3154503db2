#!/usr/bin/env bash
# Measures what the README states, on a demo cluster of three nodes on this machine: writes and reads a second, the latency of
# one client, and how long writes stand still when a leader is killed. Run it on a machine that does nothing else.
#
# BIN says where kvctl and kvserver are [default: target/release], SECONDS_EACH how long each runs [default: 20].
set -euo pipefail
cd "$(dirname "$0")/.."

readonly KILLS=10 EACH=${SECONDS_EACH:-20}
bin=$(cd "${BIN:-target/release}" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/synod-figures.XXXXXX")
export KVCTL_DEMO=$work/demo PATH=$bin:$PATH
demo=

end() {
  if [ -n "$demo" ]; then kill "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap end EXIT

# A field of the JSON on stdin.
field() { tr -d ' \n' | sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"; }

leader() { kvctl -o json status | tr -d ' \n' | sed -n 's/.*"id":1,"keys":[0-9]*,"leader":\([0-9]*\).*/\1/p'; }

measure() {
  local name=$1
  shift
  printf '%-52s %s\n' "$name" "$(kvctl bench --seconds "$EACH" "$@")"
}

mkdir "$work/demo"
kvctl demo --no-shell --data-dir "$work/demo" --base-port 0 >"$work/demo.log" 2>&1 &
demo=$!
for _ in $(seq 300); do
  if [ -s "$work/demo/demo.json" ]; then break; fi
  sleep 0.1
done

printf '%s, %s cores, load %s\n' "$(uname -sr)" "$(nproc)" "$(cut -d ' ' -f 1 /proc/loadavg)"
measure "put, 256 clients, 16 B keys, 100 B values" --workload put --clients 256
measure "put, 1 client" --workload put --clients 1
measure "append, 256 clients" --workload append --clients 256 --value-bytes 4
measure "get linearizable, 256 clients" --workload get --clients 256
measure "get by lease, 256 clients" --workload get --clients 256 --consistency lease
measure "get linearizable, 1 client" --workload get --clients 1
measure "get by lease, 1 client" --workload get --clients 1 --consistency lease

# The longest wait of a few writers while the leader of group 1 dies is how long its writes stood still.
gaps=()
for _ in $(seq $KILLS); do
  kvctl -o json bench --workload put --clients 8 --seconds 4 >"$work/gap.json" 2>/dev/null &
  bench=$!
  sleep 1
  node=$(leader)
  kvctl fault kill --node "$node" >/dev/null
  wait "$bench"
  gaps+=("$(field max_us <"$work/gap.json")")
  kvctl fault start --node "$node" >/dev/null
  sleep 1
done
printf '%s\n' "${gaps[@]}" | sort -n | awk -v kills=$KILLS '
  { gap[NR] = $1 / 1000 }
  END { printf "leader killed, %d times: writes stand still for %.0f ms (median), %.0f ms (longest)\n",
        kills, (gap[int((NR + 1) / 2)] + gap[int(NR / 2) + 1]) / 2, gap[NR] }'
