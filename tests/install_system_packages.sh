#!/bin/sh
# Install the Debian (or Ubuntu) packages that the test cluster, its images, the tests on PostgreSQL and those in a
# browser need; does nothing when all is there.
set -eu

# Each package, and a program (or file) that says it is there.
wanted="
  containerd:containerd
  runc:runc
  containernetworking-plugins:/usr/lib/cni/bridge
  iptables:iptables
  conntrack:conntrack
  iproute2:ip
  procps:sysctl
  openssl:openssl
  busybox-static:/bin/busybox
  dnsmasq-base:dnsmasq
  buildah:buildah
  mmdebstrap:mmdebstrap
  postgresql:pg_ctlcluster
  faketime:faketime
  chromium:chromium
  systemd:systemd-analyze
  python3-venv:/usr/share/doc/python3-venv
"

PATH=$PATH:/usr/sbin:/sbin # not on every user's PATH, and iptables is there

missing=""
for each in $wanted; do
  command -v "${each#*:}" >/dev/null || missing="$missing ${each%%:*}"
done

if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ]; then
    as_root=""
  elif sudo -n true 2>/dev/null; then
    as_root="sudo"
  else
    echo "missing, and neither root nor sudo without a password to install them:$missing" >&2
    exit 1
  fi
  echo "Installing$missing …"
  start=$(date +%s)
  $as_root apt-get update -qq
  # shellcheck disable=SC2086 # one word a package
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
  echo "  … done ($(($(date +%s) - start)) s)"
fi

# Debian's own Go is too old for this Kubernetes, so it is not in the list.
if ! command -v go >/dev/null; then
  echo "missing: go 1.25 or newer, to build Kubernetes with" >&2
  exit 1
fi
