#!/bin/sh
# Builds the Debian package from a wheel.
#
#   tools/deb.sh WHEEL DIRECTORY [REVISION]   writes DIRECTORY/busyweight_VERSION-REVISION_ARCHITECTURE.deb
#
# VERSION is the wheel's; REVISION, 1 unless told, is the packaging's own. The manual page and what shells complete come
# from the command line's parser, and the configuration file from the agent's own table of keys, both as the wheel has them.
# It must never compile anything, nor leave anything but the package outside target/.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
if [ $# -lt 2 ]; then
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
wheel=$(realpath "$1")
out=$(realpath "$2")
version=$(basename "$wheel" | cut -d- -f2)
cd "$here"

# The same sources give the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

tree=target/deb/busyweight-$version
rm -rf target/deb
mkdir -p "$tree"
cp -a contrib debian docs metrics systemd README.md CHANGELOG.md "$tree" # all that debian/ names
cp systemd/busyweight.service systemd/busyweight.socket "$tree/debian" # debhelper knows where they belong
cp systemd/README.md "$tree/systemd.md"
cat >"$tree/debian/changelog" <<CHANGELOG
busyweight ($version-${3:-1}) stable; urgency=medium

  * Version $version; what is new is in changelog.gz in this directory.

 -- $(sed -n 's/^Maintainer: //p' debian/control)  $(LC_ALL=C date --utc --date="@$SOURCE_DATE_EPOCH" -R)
CHANGELOG

.venv/bin/python -m zipfile -e "$wheel" "$tree/wheel"
export PYTHONPATH="$tree/wheel" PYTHONDONTWRITEBYTECODE=1
.venv/bin/python tools/conffile.py >"$tree/busyweight.toml"
COLUMNS=80 .venv/bin/argparse-manpage --module agent.cli --function parser --format single-commands-section \
    --prog busyweight --project-name busyweight --version "$version" --manual-title "User Commands" \
    --description "tell HAProxy how much of this host is free" --include tools/manpage.inc \
    --output "$tree/busyweight.1"
for shell in bash zsh; do .venv/bin/python -m tools.completion $shell >"$tree/completion.$shell"; done

unset PYTHONPATH # Debian's tools are in Python, too
cd "$tree"
# What it needs tools/setup.sh sees to; dpkg itself would also ask for compilers.
dpkg-buildpackage --build=binary --no-check-builddeps --no-sign --post-clean
cp ../*.deb "$out"
