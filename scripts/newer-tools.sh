#!/bin/sh
# newer-tools.sh DIR: puts GNU make 4.4 and ninja 1.13 of Debian testing's successor at DIR, for tests and benches of job
# control on a distribution that has older ones: MESH_NEWER_TOOLS=DIR. Needs mmdebstrap; 20 MB, some 5 s; nothing is run as root.
# DIR/bin/make and DIR/bin/ninja find their own C library, wherever DIR is seen.
set -eu
dir=${1:?usage: newer-tools.sh DIR}
[ -x "$dir/bin/make" ] && exit 0
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
  --include=make,ninja-build,libc6 sid "$dir" "$site"
cd "$dir"
rm -rf dev etc tmp var usr/share
loader=$(find usr/lib* -name 'ld-linux*.so.*' | head -n 1)
libraries=$(dirname "$(find usr/lib -name libc.so.6)")
mkdir bin
for tool in make ninja; do
  cat >"bin/$tool" <<END
#!/bin/sh
root=\${0%/*}/..
exec "\$root/$loader" --library-path "\$root/$libraries" --argv0 "\$0" "\$root/usr/bin/$tool" "\$@"
END
  chmod 755 "bin/$tool"
done
"bin/make" --version | head -n 1
"bin/ninja" --version
