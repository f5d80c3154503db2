#!/usr/bin/env bash
# Where the nodes' time goes: profiles all three nodes of a cluster while `kvctl bench` loads it, and makes a flame
# graph of each workload, with the share of each thread and of each part of the work. Needs `perf` (Debian: linux-perf) and
# `inferno` (cargo install inferno), and a release build of kvserver and client.
#
# usage: bench/profile.sh [DIRECTORY, default target/measured]
# BIN says where kvctl and kvserver are [default: target/release], SECONDS_EACH how long each runs [default: 5],
# SHARD_GROUPS how many groups there are [default: 1].
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "${1:-target/measured}"
out=$(cd "${1:-target/measured}" && pwd)
bin=$(cd "${BIN:-target/release}" && pwd)
readonly EACH=${SECONDS_EACH:-5} SHARD_GROUPS=${SHARD_GROUPS:-1}
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
kvctl demo --groups "$SHARD_GROUPS" --no-shell --data-dir "$work/demo" --base-port 0 >"$work/demo.log" 2>&1 &
demo=$!
for _ in $(seq 300); do
  if [ -s "$work/demo/demo.json" ]; then break; fi
  sleep 0.1
done

# The share of each part, by the innermost frame that belongs to one, and of each thread.
parts() {
  awk '
    function part(frame) {
      if (frame ~ /(fdatasync|pwrite64|ext4_|jbd2_|submit_bio)/) return "the disk (kernel)"
      if (frame ~ /(tcp_|inet_|sock_|sys_sendto|sys_recvfrom|sys_writev|sys_readv)/) return "sockets (kernel)"
      if (frame ~ /(sys_epoll|sys_futex|do_futex|ep_poll|eventfd)/) return "threads that wait and wake (kernel)"
      if (frame ~ /runtime::log/) return "log: records, frames, checks"
      if (frame ~ /(runtime::checkpoint|sled::)/) return "checkpoints"
      if (frame ~ /(imbl::|archery::|kvserver::(machine|store|shard|session|tally|value|entry|key|txn|request|command))/) return "state machine"
      if (frame ~ /paxos::/) return "consensus"
      if (frame ~ /(prost::|wire::)/) return "encoding and decoding"
      if (frame ~ /(h2::|hyper|tonic|http::)/) return "HTTP/2 and gRPC"
      if (frame ~ /(kvserver::server|runtime::)/) return "requests and answers"
      return ""
    }
    # From the innermost frame on.
    function of(stack,    frames, at, found) {
      for (at = split(stack, frames, ";"); at > 0 && found == ""; at--) found = part(frames[at])
      return found == "" ? "the rest" : found
    }
    { count = $NF; $NF = ""; sum += count; parts[of($0)] += count; split($0, frames, ";"); threads[frames[1]] += count }
    END {
      for (name in parts) printf "%5.1f %%  %s\n", 100 * parts[name] / sum, name
      for (name in threads) printf "%5.1f %%  thread %s\n", 100 * threads[name] / sum, name
    }' "$1" | sort -rn
}

profile() {
  local name=$1
  shift
  if [ "$SHARD_GROUPS" -gt 1 ]; then name=$name-groups-$SHARD_GROUPS; fi
  kvctl bench --seconds $((EACH + 3)) "$@" >"$work/bench" &
  local load=$!
  sleep 2
  perf record -q -F 499 --call-graph dwarf,16384 -o "$work/perf" -p "$(pgrep -d, -P "$demo" kvserver)" -- sleep "$EACH"
  wait "$load"
  perf script -i "$work/perf" --no-inline 2>/dev/null | inferno-collapse-perf >"$work/folded"
  # Without the comments of the plot's own script.
  inferno-flamegraph --title "$name: three nodes" --minwidth 0.3 <"$work/folded" | sed '/^ *\/\/ /d' >"$out/flame-$name.svg"
  printf '%s: %s\n' "$name" "$(cat "$work/bench")"
  parts "$work/folded"
}

profile put-256 --workload put --clients 256
profile put-1 --workload put --clients 1
profile get-256 --workload get --clients 256 --consistency lease
echo "the flame graphs are in $out"
