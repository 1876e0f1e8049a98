#!/usr/bin/env bash
# Makes a base image from Debian's own packages, for machines that reach no registry of images: Debian 12 with its
# Python 3.11 where python:3.11-slim-bookworm has it. As root; needs debootstrap and buildah.
#
#   bash tools/image/debian_base.sh [MIRROR]          without one, that of debootstrap
#   make image FLAVOUR=stub ARGS="--build-arg BASE=localhost/debian-python:bookworm"
set -euo pipefail

name=localhost/debian-python:bookworm
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates,netbase,python3.11,python3-pip,python3.11-venv \
    bookworm "$root" ${1:+"$1"}
for link in python python3; do ln -s /usr/bin/python3.11 "$root/usr/local/bin/$link"; done
# pip refuses a Debian's Python; here nobody but the image uses it.
rm -rf "$root"/usr/lib/python3.11/EXTERNALLY-MANAGED "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

container=$(buildah from scratch)
buildah add --quiet "$container" "$root" /
buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
buildah commit --quiet --rm "$container" "$name"
echo "base image: $name"
