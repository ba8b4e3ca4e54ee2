#!/bin/sh
# Installs the pins: install.sh PYTHON cpu|cuda [dev], or install.sh PYTHON audit.
# `dev` brings what tests, linters and audits need.
# Where `make hashes` has written requirements/hashed/, every file must have the hash that it says.
set -eu
python=$(realpath -s "$1") device=$2 dev=${3:-}
cd "$(dirname "$0")"
pip() { "$python" -m pip install --quiet "$@"; }

if [ -e "hashed/$device.txt" ]; then
  "$python" hashed.py check "$device" $dev
  pip --no-deps --require-hashes -r "hashed/$device.txt"
  if [ -n "$dev" ]; then pip --no-deps --require-hashes -r "hashed/$device-dev.txt"; fi
  exit
fi
set -- -r "$device.txt"
if [ -n "$dev" ]; then set -- "$@" -r dev.txt -r audit.txt; fi
if [ -n "$dev" ] && [ "$device" = cpu ]; then set -- "$@" -r dev_cpu.txt; fi
pip "$@"
if [ "$device" != audit ]; then pip --no-deps -r no_deps.txt; fi # the file says why these come last
