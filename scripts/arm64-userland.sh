#!/usr/bin/env bash
# arm64-userland.sh DIRECTORY: a Debian 12 for arm64 with a C compiler, unpacked and not set up, for tests
# that run it on other machines by qemu-user. Needs mmdebstrap; 10 s and 260 MB.
set -euo pipefail
root=${1:?usage: arm64-userland.sh DIRECTORY}
if [ -e "$root/usr/bin/gcc" ]; then exit 0; fi
site=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -v security | head -1)
mkdir -p "$root"
# Merged /usr as on every Debian 12, so that images of tools fit on top of it.
mmdebstrap --variant=extract --architectures=arm64 --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --include=gcc,libc6-dev,dash,coreutils bookworm "$root" "$site"
