#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Obtains the two servers Linli runs on: PostgreSQL 17 with TimescaleDB, and Mosquitto >= 2.0.21.
#
#   deploy/userland.sh root               print the root folder that holds them, making it if need be
#   deploy/userland.sh root rabbitmq      the same for RabbitMQ, a userland of its own (./dev drill)
#   deploy/userland.sh found              print that folder if it is there, else nothing
#   deploy/userland.sh missing            print the Debian packages `root` still needs on this machine
#   deploy/userland.sh install PACKAGE... install Debian packages
#
# Debian 13 has both, so there the root is `/`. Elsewhere a private Debian 13 userland is built
# once per machine in the cache folder, outside any checkout; remove that folder to build it anew.
# RabbitMQ is never installed on the machine itself: its package would start a broker at once.
# Standard output carries the answer alone; progress goes to standard error.
set -eu

suite=trixie
servers=postgresql-17-timescaledb,mosquitto,mosquitto-clients
# Raise this when what is built below changes: older userlands are then left alone, not reused.
edition=1
private=
if [ "${1-} ${2-}" = "root rabbitmq" ]; then
    servers=rabbitmq-server
    edition=rabbitmq-1
    private=1
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/linli

say() { printf '%s\n' "$*" >&2; }
fail() { say "userland: $*"; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "needs root once for: $* (become root, or install sudo)"
    fi
}

is_suite() { [ -z "$private" ] && (. /etc/os-release && [ "${VERSION_CODENAME-}" = "$suite" ] && [ "${ID-}" = debian ]); }

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

userland() { printf '%s/%s-%s-%s' "$cache" "$suite" "$(dpkg --print-architecture)" "$edition"; }

missing() {
    if is_suite; then
        wanted=$(printf '%s' "$servers" | tr , ' ')
    elif [ -d "$(userland)" ]; then
        wanted=
    else
        wanted="mmdebstrap debian-archive-keyring"
    fi
    command -v mount >/dev/null || wanted="$wanted mount"
    for package in $wanted; do
        installed "$package" || printf '%s ' "$package"
    done
}

install() {
    say "apt-get install $*"
    # A fresh machine's lists are empty, an old machine's name files that are gone: refresh first.
    as_root apt-get -qq -o Acquire::Retries=5 update >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 install "$@" >&2
}

# The machine's own mirror of Debian, where it has one; mmdebstrap knows the public one.
sources() {
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' |
        sort -u | while read -r label uri; do
            case $label in
            Debian) printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$suite" ;;
            Debian-Security)
                printf 'deb [signed-by=%s] %s %s-security main\n' "$keyring" "$uri" "$suite" ;;
            esac
        done
}

build() {
    target=$(userland)
    mkdir -p "$cache"
    exec 9>"$cache/userland.lock"
    flock 9
    [ ! -d "$target" ] || return 0 # somebody else built it while we waited
    say "building a private Debian 13 userland (once per machine, about a minute): $target"

    # A name of its own per attempt: what an interrupted attempt left is removed by the next one.
    as_root rm -rf --one-file-system "$cache"/building.*
    work=$(mktemp -d "$cache/building.XXXXXX")
    chmod 755 "$work"
    log=$cache/userland.log
    # What this machine's apt was told about the network and the clock holds for the userland too.
    apt-config dump | grep -E '^Acquire::(https?::|Retries|Check-|ForceIPv)' >"$work/apt.conf" || :
    sources >"$work/sources.list"
    if grep -q " $suite main" "$work/sources.list"; then
        mirror=$work/sources.list
    else
        mirror=
    fi
    # No cluster of the package's own: ours live in data folders. Manuals and translations stay out.
    as_root mmdebstrap --variant=essential --include="$servers" \
        --aptopt='Acquire::Retries "5"' --aptopt="$work/apt.conf" \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --essential-hook='mkdir -p "$1/etc/postgresql-common"' \
        --essential-hook='echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
        "$suite" "$work/root" ${mirror:+"$mirror"} >"$log" 2>&1 ||
        { tail -n 20 "$log" >&2; fail "mmdebstrap failed; the whole output is in $log"; }
    mv "$work/root" "$target"
    rm -rf "$work"
    say "userland ready: $target"
}

case ${1-} in
found)
    if is_suite; then
        [ -n "$(missing)" ] || echo /
    elif [ -d "$(userland)" ]; then
        userland
        echo
    fi
    ;;
missing) missing ;;
install) shift; install "$@" ;;
root)
    command -v dpkg >/dev/null ||
        fail "Linli's own runner needs Debian 12, Debian 13 or Ubuntu (no dpkg here)"
    needed=$(missing)
    # shellcheck disable=SC2086  # a list of package names
    [ -z "$needed" ] || install $needed
    if is_suite; then
        echo /
    else
        [ -d "$(userland)" ] || (build)
        userland
        echo
    fi
    ;;
*) fail "usage: deploy/userland.sh root [rabbitmq] | found | missing | install PACKAGE..." ;;
esac
