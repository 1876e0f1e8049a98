#!/usr/bin/env bash
# Builds an image with whatever is there: docker, podman, or buildah, which needs no daemon and no container.
#
#   make image FLAVOUR=stub [ARGS="options of the builder"]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

flavour=${FLAVOUR:-gpu}
case $flavour in
gpu | cpu | stub) ;;
*)
    echo "image: FLAVOUR=$flavour: not one of gpu, cpu, stub" >&2
    exit 2
    ;;
esac

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' rollstream/version.py)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || revision=$revision-changed
# A label is read by others: only an address that they can open, without what a person may have put in front of its host.
source=$(git remote get-url origin 2>/dev/null | sed -n 's#^https://\([^@/]*@\)\{0,1\}#https://#p' || true)
labels=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "SOURCE=$source")

if docker info >/dev/null 2>&1; then
    builder=(docker build)
elif command -v podman >/dev/null; then
    builder=(podman build --layers)
elif command -v buildah >/dev/null; then
    # Without namespaces of its own, so that it works inside a container too.
    builder=(buildah bud --isolation chroot --layers)
else
    echo "image: no docker that answers, no podman and no buildah: install one (Debian: apt install buildah)" >&2
    exit 1
fi
# Unquoted: options, split as the shell would.
# shellcheck disable=SC2086
exec "${builder[@]}" --build-arg "FLAVOUR=$flavour" "${labels[@]}" --tag "rollstream-worker:$flavour" ${ARGS:-} .
