# shellcheck shell=bash
# Shared by the scripts of this directory; sourced, never run.
# Sets ROOT (the checkout), TARGET (cargo's target directory) and a PATH that finds cargo.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# A cache directory outside the checkout survives a fresh clone (CI sets it).
if [ -n "${KEGFS_CACHE:-}" ] && [ -z "${CARGO_TARGET_DIR:-}" ]; then
    export CARGO_TARGET_DIR="$KEGFS_CACHE/target"
fi
# shellcheck disable=SC2034 # used by those who source this
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin"

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
die() {
    warn "$(basename "$0"): $*"
    exit 1
}

# as_root COMMAND...: runs it as root, through sudo where we are not.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root and there is no sudo; as root run: $*"
    fi
}

# install_packages NAME...: installs the Debian packages that are missing; says which; silent when none is.
install_packages() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        warn "not a Debian or Ubuntu system: make sure that you have the equivalent of: $*"
        return 0
    fi
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing with apt-get: ${missing[*]}"
    # The package lists of a fresh image are empty or old; a failing update is not yet a failing install.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null >/dev/null ||
        warn "apt-get update failed; trying with the package lists that are here"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" </dev/null >/dev/null || die "apt-get could not install: ${missing[*]}"
}

# fuse_problem: prints why FUSE mounts cannot work here; prints nothing where they can.
fuse_problem() {
    if [ ! -e /dev/fuse ]; then
        say "/dev/fuse does not exist (try: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
    elif ! (exec 3<>/dev/fuse) 2>/dev/null; then
        say "/dev/fuse cannot be opened for reading and writing by $(id -un)"
    elif ! command -v fusermount3 >/dev/null; then
        say "fusermount3 is missing (package fuse3)"
    fi
}
