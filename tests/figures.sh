#!/usr/bin/env bash
# Measures what the README states, on a demo cluster of three nodes on this machine: writes and reads a second, the latency of
# one client, and how long writes stand still when a leader is killed. Run it on a machine that does nothing else.
#
# BIN says where kvctl and kvserver are [default: target/release], SECONDS_EACH how long each runs [default: 20].
set -euo pipefail
cd "$(dirname "$0")/.."

readonly EACH=${SECONDS_EACH:-20}
bin=$(cd "${BIN:-target/release}" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/synod-figures.XXXXXX")
export KVCTL_DEMO=$work/demo PATH=$bin:$PATH
demo=

end() {
  if [ -n "$demo" ]; then kill "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap end EXIT

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
measure "half put, half get linearizable, 256 clients" --workload mixed --clients 256
# Over two groups: what the nodes say to each other counts only if they are led on different ones.
kvctl member transfer-leader --group 1 --to 1 >&2
kvctl member transfer-leader --group 2 --to 2 >&2
measure "transaction in one group, 1 client" --workload txn --local --clients 1
measure "transaction over two groups, 1 client" --workload txn --across --clients 1
measure "put, 64 clients" --workload put --clients 64
measure "transaction in one group, 64 clients" --workload txn --local --clients 64
measure "transaction over two groups, 64 clients" --workload txn --across --clients 64

kill "$demo"
wait "$demo" || true
demo=
cargo run --quiet --release -p tests --example failover
