#!/bin/bash
# Installs the Debian packages that the local stack and the tests need and this machine lacks.
# As root it installs them; as another user it says what to run.
set -euo pipefail

missing=()
need() { # PACKAGE TEST…
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

need python3-venv python3 -c 'import ensurepip, venv'
need openjdk-17-jre-headless command -v java
need maven command -v mvn
need postgresql-15 test -x /usr/lib/postgresql/15/bin/initdb
need mariadb-server-core test -x /usr/sbin/mariadbd
need mariadb-client-core command -v mariadb
need chromium test -x /usr/bin/chromium
need gcc command -v gcc
need libc6-dev test -e /usr/include/stdio.h

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "Debian packages are missing: ${missing[*]}. Run this as root, then try again:" >&2
    echo "  $(realpath "$0")" >&2
    exit 1
fi

echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Debian's PostgreSQL package would make a cluster of its own and start it on port 5432.
mkdir -p /etc/postgresql-common
if ! grep -qs '^create_main_cluster *= *false' /etc/postgresql-common/createcluster.conf; then
    echo 'create_main_cluster = false' >>/etc/postgresql-common/createcluster.conf
fi
log=$(mktemp)
if ! { apt-get update && apt-get install -y --no-install-recommends \
    -o Dpkg::Options::=--force-confold "${missing[@]}"; } >"$log" 2>&1; then
    tail -20 "$log" >&2
    echo "apt-get failed; its output is in $log" >&2
    exit 1
fi
rm -f "$log"
