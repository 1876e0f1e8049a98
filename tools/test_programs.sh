#!/usr/bin/env bash
# Programs that some tests drive and that no wheel carries: a Chromium for the live page, Prometheus for rules and
# scrapes. Where one is missing its tests skip and say so. As root on Debian or Ubuntu it is installed; that this is not
# possible is no failure.
set -uo pipefail

have() { command -v "$1" >/dev/null 2>&1; }

missing=()
have chromium || have chromium-browser || have google-chrome || missing+=(chromium fonts-dejavu-core)
have prometheus || missing+=(prometheus)
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! have apt-get; then
    echo "== not installed, so their tests will skip: ${missing[*]}"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q || true
for package in "${missing[@]}"; do
    apt-get install -q -y --no-install-recommends "$package" ||
        echo "== $package cannot be installed, so its tests will skip"
done
exit 0
