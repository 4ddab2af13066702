#!/bin/sh
# Installs the Debian packages that the build, the lint, the tests and the packaging need.
#
#   tools/setup.sh STEP                as root installs what is missing; otherwise prints the command, and stops;
#                                      steps: build lint test soak dist test-dist test-matrix
#   tools/setup.sh install PACKAGE...  the part that needs root
#
# It must never remove or replace a package, change apt's configuration, or leave a daemon running.
set -eu
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin" # dpkg wants these; a plain `su` does not give them

# The one list: the step, the package, and why.
needs() {
    cat <<'LIST'
build gcc               links the Rust crate
build libc6-dev         the C library's and the kernel's headers
build clang             compiles the eBPF programs; a build without it does not have them
lint  libpython3-dev    `cargo test` links with libpython (the extension itself does not)
test  haproxy           the balancer whose weights the tests read
test  redis-server      Sidekiq's queue
test  ruby-sidekiq      real workers
test  ruby-activejob    jobs that others perform
test  puma              performs them inside a web server
test  postgresql        workers of another kind
test  prometheus        scrapes the metrics, checks the alert rules
test  systemd-container boots the unit in systemd-nspawn
test  iproute2          network namespaces, and wires that lose packets
test  procps            the unit calls kill
test  strace            counts system calls
test  tmux              a terminal whose screen can be read
soak  valgrind          looks how memory is used
dist  debhelper         makes the Debian package
dist  dh-python         its dependencies, and byte code where it is installed
dist  rpm               makes the RPM
test-dist rpmlint       what Fedora thinks of that
test-dist lintian       what Debian thinks of the package
test-dist systemd-container  boots the Debian that it is installed in
test-dist qemu-user     runs what is for another processor
test-dist musl-tools    compiles a Python as Alpine has it
test-dist debootstrap   makes that Debian
test-dist debian-archive-keyring  makes sure that it is one
test-matrix systemd-container  boots the Debians
test-matrix debootstrap  makes the Debians
test-matrix debian-archive-keyring  makes sure that they are
LIST
}

steps() { # STEP: those whose packages it wants
    case "$1" in
        build) echo build ;;
        lint) echo build lint ;;
        test) echo build lint test ;;
        soak) echo build lint test soak ;;
        dist) echo build dist ;;
        test-dist) echo build dist test-dist ;;
        test-matrix) echo build dist test-matrix ;;
    esac
}

msrv=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

say() { echo "setup: $*" >&2; }

at_least() { printf '%s\n' "$1" "$2" | sort -VC; } # WANTED VERSION

rust_is_new_enough() {
    version=$(rustc --version 2>/dev/null) && cargo --version >/dev/null 2>&1 && at_least "$msrv" "${version#rustc }"
}

rust_can_lint() {
    version=$(cargo clippy --version 2>/dev/null) && cargo fmt --version >/dev/null 2>&1 &&
        at_least "0.$msrv" "${version#clippy }"
}

rust_can_cross() { # has the standard library's sources, or all that the wheels want, as tools/cross.sh asks
    sysroot=$(rustc --print sysroot 2>/dev/null) || return 1
    if [ -e "$sysroot/lib/rustlib/src/rust/library/Cargo.lock" ]; then return; fi
    for target in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu x86_64-unknown-linux-musl; do
        if [ ! -d "$sysroot/lib/rustlib/$target/lib" ]; then return 1; fi
    done
}

lacking() { # of the packages on standard input those that are not installed
    packages=$(cat)
    # shellcheck disable=SC2086,SC2016  # a list of words; a format of dpkg's own
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $packages 2>/dev/null | sed -n 's/^installed //p')
    echo "$packages" | grep -vxF "$installed" || true
}

lints() { steps "$1" | grep -qw lint; } # STEP

makes_wheels() { steps "$1" | grep -qw dist; } # STEP

missing() { # STEP: the packages it lacks
    if lints "$1" && ! rust_can_lint; then
        echo rustc-web cargo-web rustfmt-web rust-web-clippy
    elif ! rust_is_new_enough; then
        echo rustc-web cargo-web
    elif makes_wheels "$1" && ! rust_can_cross; then
        printf 'rustc-web\ncargo-web\n' | lacking
    fi
    if makes_wheels "$1" && ! rust_can_cross; then echo rust-web-src | lacking; fi
    for step in $(steps "$1"); do needs | awk -v step="$step" '$1 == step { print $2 }'; done | lacking
}

update() { # one source out of reach need not be the one that matters
    apt-get update -q -o Acquire::Languages=none || say "apt-get update failed; going on with what apt knows"
}

# Debian 12's first release has an older Rust than this; its security suite has a newer one (packaged for the
# browsers). Where apt does not list that suite, it is used for this one installation, beside apt's own settings,
# from where apt has Debian itself: Debian and its mirrors keep `debian-security` beside `debian`.
find_new_rust() { # SCRATCH PACKAGE...
    scratch=$1 && shift
    oldest=$(apt-cache policy "$@" | sed -n 's/ *Candidate: //p' | sort -V | head -n 1)
    if at_least "$msrv" "$oldest"; then return; fi
    mkdir "$scratch/sources" "$scratch/lists"
    cp -a /etc/apt/sources.list.d/. "$scratch/sources"
    release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # shellcheck disable=SC2016  # a format of apt's own
    apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' "Codename: $release" | sort -u |
        sed "s,\(.*[^/]\)/*$,deb \1-security $release-security main," >"$scratch/sources/security.list"
    printf 'Dir::Etc::SourceParts "%s";\nDir::State::Lists "%s";\n' "$scratch/sources" "$scratch/lists" >"$scratch/apt.conf"
    export APT_CONFIG="$scratch/apt.conf"
    update
}

install() { # PACKAGE...
    export DEBIAN_FRONTEND=noninteractive
    scratch=$(mktemp -d)
    chmod 755 "$scratch" # apt fetches as its own user
    policy=/usr/sbin/policy-rc.d
    trap 'rm -rf "$scratch"; if [ -n "${denied:-}" ]; then rm -f "$policy"; fi' EXIT
    trap 'exit 1' INT TERM HUP
    if [ ! -e "$policy" ]; then
        denied=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi

    daemons=$(printf '%s\n' "$@" | lacking | grep -xE 'haproxy|redis-server|postgresql|prometheus' || true)
    update
    rust=$(printf '%s\n' "$@" | grep -e -web || true)
    # shellcheck disable=SC2086  # a list of words
    if [ -n "$rust" ]; then find_new_rust "$scratch" $rust; fi
    if ! apt-get install -qy --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 "$@"; then
        say "apt-get failed for the reason above: check the network and the disk space, then run the same command again"
        exit 1
    fi

    # Nobody asked this machine to be a balancer or a database: they must not come up at the next boot either.
    for daemon in $daemons; do
        if command -v systemctl >/dev/null; then systemctl --quiet disable "$daemon"; fi
        if [ -d /run/systemd/system ]; then systemctl stop "$daemon"; fi
    done
}

prepare() { # STEP
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian: install Rust $msrv or newer, and:"
        needs >&2
        return
    fi
    if rust_is_new_enough && lints "$1" && ! rust_can_lint && ! dpkg-query -W cargo-web >/dev/null 2>&1; then
        say "$(command -v cargo) lacks fmt or clippy: rustup component add rustfmt clippy"
        exit 1
    fi
    packages=$(missing "$1" | xargs)
    if [ "$1" = build ] && [ "$packages" = clang ] && [ "$(id -u)" != 0 ]; then
        say "no clang: building without eBPF"
    elif [ -n "$packages" ] && [ "$(id -u)" = 0 ]; then
        say "installing $packages"
        # shellcheck disable=SC2086  # a list of words
        install $packages
    elif [ -n "$packages" ]; then
        command="$PWD/tools/setup.sh install $packages"
        if command -v sudo >/dev/null; then command="sudo $command"; else command="su -c '$command'"; fi
        say "missing: $packages. Run this, then the same command again:"
        say "    $command"
        exit 1
    fi
    if ! rust_is_new_enough; then
        say "$(command -v cargo) is older than Rust $msrv: update it, or put /usr/bin first in PATH"
        exit 1
    fi
}

case "${1:-}" in
    build | lint | test | soak | dist | test-dist | test-matrix) prepare "$1" ;;
    install) shift && install "$@" ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
