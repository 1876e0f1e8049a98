#!/usr/bin/env bash
# Programs that some tests drive and that no wheel carries: a Chromium for the live page, Prometheus for rules and
# scrapes, a redis-server that speaks TLS, zsh and fish for completion. Where one is missing its tests skip and say so. As
# root on Debian or Ubuntu it is installed; that this is not possible is no failure.
set -uo pipefail

redis=/usr/local/lib/rollstream-tests/redis

have() { command -v "$1" >/dev/null 2>&1; }

# The redis-servers of wheels speak no TLS. Debian's does; it is unpacked and not installed, because a redis-server on
# PATH would become the one that every test starts, and its package starts a service.
unpack_redis() {
    local packages
    packages=$(mktemp -d) && chmod 755 "$packages" && mkdir -p "$packages/partial" "$redis" || return 1
    apt-get install -q -y --download-only --no-install-recommends -o Dir::Cache::archives="$packages" redis-server &&
        for package in "$packages"/*.deb; do dpkg -x "$package" "$redis" || return 1; done
    rm -rf "$packages"
    local lib
    lib=$(find "$redis/usr/lib" -name 'libjemalloc.so*' -printf '%h' -quit 2>/dev/null)
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/usr/bin/redis-server "$@"\n' "$lib" "$redis" >/usr/local/bin/redis-server-tls
    chmod 755 /usr/local/bin/redis-server-tls
    redis-server-tls --version || { rm -rf "$redis" /usr/local/bin/redis-server-tls; return 1; }
}

missing=()
have chromium || have chromium-browser || have google-chrome || missing+=(chromium fonts-dejavu-core)
have prometheus || missing+=(prometheus)
have openssl || missing+=(openssl)
have redis-server-tls || missing+=(redis-server-tls)
have zsh || missing+=(zsh)
have fish || missing+=(fish)
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! have apt-get; then
    echo "== not installed, so their tests will skip: ${missing[*]}"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q || true
for package in "${missing[@]}"; do
    if [ "$package" = redis-server-tls ]; then unpack_redis; else
        apt-get install -q -y --no-install-recommends "$package"
    fi || echo "== $package cannot be installed, so its tests will skip"
done
exit 0
