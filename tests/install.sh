#!/bin/sh
# install.sh NAME PACKAGES BREW_PACKAGES COMMANDS: installs what a test runs with the system's package
# manager, unless all of COMMANDS are there.
set -eu
name=$1 packages=$2 brew_packages=$3 commands=$4

found() {
    for command in $commands; do
        PATH="$PATH:/usr/sbin" command -v "$command" >/dev/null || return 1
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

if found; then
    exit 0
fi
echo "$name is missing; installing it"
# Packages are words of their own.
# shellcheck disable=SC2086
if command -v apt-get >/dev/null; then
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
elif command -v dnf >/dev/null; then
    as_root dnf install -y $packages
elif command -v pacman >/dev/null; then
    as_root pacman -S --noconfirm $packages
elif command -v apk >/dev/null; then
    as_root apk add $packages
elif command -v brew >/dev/null; then
    brew install $brew_packages
else
    echo "No package manager known here: install $name and run this again" >&2
    exit 1
fi
