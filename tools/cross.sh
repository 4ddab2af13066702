#!/bin/sh
# Runs a command with a Rust that compiles for another machine, and with zig, which links for it.
#
#   tools/cross.sh TARGET COMMAND [ARGUMENT...]
#
# A standard library for TARGET that rustc does not bring is compiled, once, from the sources of that very rustc:
# rustup's `rust-src`, or Debian's `rust-web-src`.
# What is compiled names no directory of the machine that compiles it, so it is the same wherever that is done.
# It must never write outside target/, nor let the command have anything but stable Rust.
set -eu
cd "$(dirname "$0")/.."
if [ $# -lt 2 ]; then
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
target=$1
shift

has_std() { [ -d "$sysroot/lib/rustlib/$target/lib" ]; }
has_sources() { [ -e "$sysroot/lib/rustlib/src/rust/library/Cargo.lock" ]; }

# The first Rust that can: what PATH says, or Debian's behind it.
for rust in "$(dirname "$(command -v cargo)")" /usr/bin; do
    sysroot=$("$rust/rustc" --print sysroot 2>/dev/null) || continue
    if has_std || has_sources; then break; fi
done
export PATH="$rust:$PATH"

flag() { printf '\037%s' "$1"; } # as cargo wants them, where blanks separate nothing
cargo_home=${CARGO_HOME:-$HOME/.cargo}
flags=--remap-path-prefix=$cargo_home=/cargo$(flag "--remap-path-prefix=$PWD=/busyweight")$(
    flag "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rust"
)
if ! has_std; then
    if ! has_sources; then
        echo "cross: no Rust here has the standard library for $target, nor its sources: rustup target add $target" >&2
        exit 1
    fi
    made=$PWD/target/std/$(rustc --version | tr ' ' - | tr -d '()')
    lib=$made/lib/rustlib/$target/lib
    if ! ls "$lib"/libtest-*.rlib >/dev/null 2>&1; then
        echo "cross: compiling Rust's standard library for $target" >&2
        crate=target/std/crate
        rm -rf "$crate"
        mkdir -p "$crate/src"
        printf '[package]\nname = "nothing"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n' >"$crate/Cargo.toml"
        echo '#![no_std]' >"$crate/src/lib.rs"
        # What is unstable in rustc is for the library alone, as where Rust itself is made. The bitcode is for `lto`.
        RUSTC_BOOTSTRAP=1 CARGO_ENCODED_RUSTFLAGS="$flags$(flag -Cembed-bitcode=yes)$(flag -Cforce-unwind-tables=yes)" \
            cargo build --quiet --release --manifest-path "$crate/Cargo.toml" --target-dir "$crate/target" \
            --target "$target" -Z build-std=std,panic_unwind,test
        mkdir -p "$lib.new"
        cp "$crate/target/$target/release/deps/"*.rlib "$lib.new"
        rm -f "$lib.new"/libnothing-*
        rm -rf "$lib"
        mv "$lib.new" "$lib"
        rm -rf "$crate"
    fi
    flags=$flags$(flag "--sysroot=$made")
fi
export CARGO_ENCODED_RUSTFLAGS="$flags"

export PATH="$PWD/.venv/bin:$PATH" # maturin looks there for zig
exec "$@"
