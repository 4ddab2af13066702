#!/bin/sh
# Builds the RPM from the same files as the Debian package that tools/deb.sh has just built from the wheel.
#
#   tools/rpm.sh WHEEL DIRECTORY [REVISION]   writes DIRECTORY/busyweight-VERSION-REVISION.ARCHITECTURE.rpm
#
# It must never compile anything, nor leave anything but the package outside target/.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
if [ $# -lt 2 ]; then
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
wheel=$(basename "$1" .whl)
out=$(realpath "$2")
cd "$here"
version=$(echo "$wheel" | cut -d- -f2)
tree=$here/target/deb/busyweight-$version
cp LICENSE "$tree"

# The same sources give the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

top=$here/target/rpm
rm -rf "$top"
mkdir -p "$top"
rpmbuild -bb --quiet --target "$(uname -m)-linux" \
    --define "_topdir $top" --define "_tree $tree" --define "_version $version" --define "_revision ${3:-1}" \
    --define "_day $(LC_ALL=C date --utc --date="@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" \
    --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
    --define "_buildhost localhost" packaging/busyweight.spec
cp "$top"/RPMS/*/*.rpm "$out"
