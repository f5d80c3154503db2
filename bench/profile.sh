#!/usr/bin/env bash
# Where the nodes' time goes: profiles all three nodes of a cluster with one group while `kvctl bench` loads it, and makes a flame
# graph of each workload, with the share of each thread and of each part of the work. Needs `perf` (Debian: linux-perf) and
# `inferno` (cargo install inferno), and a release build of kvserver and client.
#
# usage: bench/profile.sh [DIRECTORY, default target/measured]
# BIN says where kvctl and kvserver are [default: target/release], SECONDS_EACH how long each runs [default: 5].
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "${1:-target/measured}"
out=$(cd "${1:-target/measured}" && pwd)
bin=$(cd "${BIN:-target/release}" && pwd)
readonly EACH=${SECONDS_EACH:-5}
PATH=$bin:$PATH:$HOME/.cargo/bin
for tool in perf inferno-collapse-perf inferno-flamegraph; do
  command -v "$tool" >/dev/null || { echo "$0: no $tool" >&2; exit 1; }
done
work=$(mktemp -d "$out/profile.XXXXXX")
export PATH KVCTL_DEMO=$work/demo
demo=

end() {
  if [ -n "$demo" ]; then kill "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap end EXIT

mkdir "$work/demo"
kvctl demo --groups 1 --no-shell --data-dir "$work/demo" --base-port 0 >"$work/demo.log" 2>&1 &
demo=$!
for _ in $(seq 300); do
  if [ -s "$work/demo/demo.json" ]; then break; fi
  sleep 0.1
done

# The parts, by the innermost frame that belongs to one: a name and what its frames look like.
parts() {
  awk '
    function part(stack) {
      if (stack ~ /(fdatasync|pwrite|ext4_|jbd2|blk_|submit_bio)/) return "log: write and sync (kernel)"
      if (stack ~ /(tcp_|sock_|inet_|__x64_sys_(sendto|writev|recvfrom|readv)|sys_write|sys_read)/) return "sockets (kernel)"
      if (stack ~ /(epoll|futex|schedule|do_idle)/) return "waiting and waking (kernel and tokio)"
      if (stack ~ /runtime::log/) return "log: records, frames, checks"
      if (stack ~ /checkpoint|sled/) return "checkpoints"
      if (stack ~ /(kvserver::(store|machine|state|apply|txn)|::apply)/) return "state machine"
      if (stack ~ /paxos::/) return "consensus"
      if (stack ~ /(prost|wire::)/) return "encoding and decoding"
      if (stack ~ /(h2::|hyper|tonic|http)/) return "HTTP/2 and gRPC"
      return "the rest"
    }
    { count = $NF; $NF = ""; sum += count; parts[part($0)] += count; split($0, frames, ";"); threads[frames[1]] += count }
    END {
      for (name in parts) printf "%5.1f %%  %s\n", 100 * parts[name] / sum, name
      for (name in threads) printf "%5.1f %%  thread %s\n", 100 * threads[name] / sum, name
    }' "$1" | sort -rn
}

profile() {
  local name=$1
  shift
  kvctl bench --seconds $((EACH + 3)) "$@" >"$work/bench" &
  local load=$!
  sleep 2
  perf record -q -F 499 --call-graph dwarf,16384 -o "$work/perf" -p "$(pgrep -d, -P "$demo" kvserver)" -- sleep "$EACH"
  wait "$load"
  perf script -i "$work/perf" --no-inline 2>/dev/null | inferno-collapse-perf >"$work/folded"
  inferno-flamegraph --title "$name: three nodes" --minwidth 0.3 <"$work/folded" >"$out/flame-$name.svg"
  printf '%s: %s\n' "$name" "$(cat "$work/bench")"
  parts "$work/folded"
}

profile put-256 --workload put --clients 256
profile put-1 --workload put --clients 1
profile get-256 --workload get --clients 256 --consistency lease
echo "the flame graphs are in $out"
