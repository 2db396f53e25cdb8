#!/bin/sh
# Installs Postgres' server binaries with the system's package manager, unless they are there.
set -eu

found() {
    for directory in "${CULPRIT_PG_BIN:-}" $(echo "$PATH" | tr ':' ' ') \
        /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* /usr/local/pgsql/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
        if [ -n "$directory" ] && [ -x "$directory/initdb" ] && [ -x "$directory/postgres" ]; then
            return 0
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

if found; then
    exit 0
fi
echo "PostgreSQL's server binaries are missing; installing them"
if command -v apt-get >/dev/null; then
    as_root apt-get update -q
    # The package would start a cluster of its own, which nobody here needs.
    as_root mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q postgresql
elif command -v dnf >/dev/null; then
    as_root dnf install -y postgresql-server
elif command -v pacman >/dev/null; then
    as_root pacman -S --noconfirm postgresql
elif command -v apk >/dev/null; then
    as_root apk add postgresql
elif command -v brew >/dev/null; then
    brew install postgresql@17
else
    echo "No package manager known here: install PostgreSQL 14 to 18 and run this again," >&2
    echo "or give culprit a database: --database-url postgres://…" >&2
    exit 1
fi
found || {
    echo "PostgreSQL was installed, but initdb and postgres are not where they are looked for." >&2
    echo "Name their directory: CULPRIT_PG_BIN=/path/to/bin" >&2
    exit 1
}
