#!/usr/bin/env bash
# Builds the image twhin/twhin:VERSION: with docker where its daemon runs, else with buildah, which needs none.
#   DEVICE=cpu|cuda   which of requirements/{cpu,cuda}.txt is installed; -cuda follows the tag then
#   IMAGE=NAME:TAG    another name
#   PIP_EXTRA_INDEX_URL=URL   for cpu: PyTorch's index of CPU builds, unless pip finds one by itself
#   BASE=IMAGE        what it is built upon: a Debian with Python 3.11 as python3
set -euo pipefail
cd "$(dirname "$0")/.."

device=${DEVICE:-cpu}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' twhin_core/__init__.py)
image=${IMAGE:-twhin/twhin:$version$([ "$device" = cpu ] || echo "-$device")}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# pip's configuration of this machine goes into the build as a secret, so that it finds what pip finds here.
python3 -m pip config list | sed -n "s/^global\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p" | sed '1i [global]' > "$scratch/pip.conf"

flags=(
  --tag "$image"
  --build-arg "DEVICE=$device"
  --build-arg "VERSION=$version"
  --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
  --secret "id=pip,src=$scratch/pip.conf"
  ${PIP_EXTRA_INDEX_URL:+--build-arg "PIP_EXTRA_INDEX_URL=$PIP_EXTRA_INDEX_URL"}
)

if docker info > /dev/null 2>&1; then
  docker build "${flags[@]}" ${BASE:+--build-arg "BASE=$BASE"} .
  exit
fi

# Programs of a build see nothing but the image: folders that pip's configuration names are mounted.
for path in $(grep -oE '/[^ ]+' "$scratch/pip.conf" | sed -E 's#^//+#/#; s#/simple/?$##'); do
  [ -e "$path" ] && flags+=(--volume "$path:$path:ro")
done

export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot} BUILDAH_FORMAT=docker
base=${BASE:-$(sed -n 's/^ARG BASE=//p' Dockerfile)}
if ! buildah inspect --type image "$base" > /dev/null 2>&1 && ! buildah pull --quiet "$base" > /dev/null 2>&1; then
  base=localhost/twhin-base:bookworm
  if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    echo "no registry can be reached: makes $base of Debian's packages"
    mmdebstrap --quiet --variant=minbase --include=python3-minimal,python3-venv,ca-certificates bookworm "$scratch/base.tar"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$scratch/base.tar" /
    buildah commit --quiet --rm "$container" "$base"
  fi
fi
buildah build --layers "${flags[@]}" --build-arg "BASE=$base" .
