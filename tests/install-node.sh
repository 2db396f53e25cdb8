#!/bin/sh
# Installs Node.js and npm, which one test runs, with the system's package manager, unless they are there.
set -eu

if command -v node >/dev/null && command -v npm >/dev/null; then
    exit 0
fi

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

echo "Node.js is missing; installing it"
if command -v apt-get >/dev/null; then
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends nodejs npm
elif command -v dnf >/dev/null; then
    as_root dnf install -y nodejs npm
elif command -v pacman >/dev/null; then
    as_root pacman -S --noconfirm nodejs npm
elif command -v apk >/dev/null; then
    as_root apk add nodejs npm
elif command -v brew >/dev/null; then
    brew install node
else
    echo "No package manager known here: install Node.js and run this again" >&2
    exit 1
fi
