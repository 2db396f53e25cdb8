#!/bin/sh
# Installs PgBouncer, which one test runs, with the system's package manager, unless it is there.
set -eu

if command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]; then
    exit 0
fi

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

echo "PgBouncer is missing; installing it"
if command -v apt-get >/dev/null; then
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q pgbouncer
elif command -v dnf >/dev/null; then
    as_root dnf install -y pgbouncer
elif command -v pacman >/dev/null; then
    as_root pacman -S --noconfirm pgbouncer
elif command -v apk >/dev/null; then
    as_root apk add pgbouncer
elif command -v brew >/dev/null; then
    brew install pgbouncer
else
    echo "No package manager known here: install PgBouncer and run this again" >&2
    exit 1
fi
