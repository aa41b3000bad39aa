#!/usr/bin/env bash
# Names again, with hashes, what the images install: cpu.lock, gpu.lock and build.lock.
#
#     make lock TORCH_PIP_ARGS="--extra-index-url …"    the index that the Dockerfile names
#
# Versions are those of constraints.txt: change them there.
set -euo pipefail
cd "$(dirname "$0")/../.."
"$BIN/pip" install --quiet pip-tools
new=$(mktemp -d)
trap 'rm -r "$new"' EXIT

compile() {  # compile NAME "what it is" ARGS…
  local name=$1 what=$2
  shift 2
  "$BIN/pip-compile" --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
    --constraint constraints.txt --output-file "$new/$name.lock" "$@"
  { echo "# $what, each file by its hash. Made by \`make lock\`."; cat "$new/$name.lock"; } > "$new/$name"
  mv "$new/$name" "deploy/locks/$name.lock"
}

echo "hatchling" > "$new/build.in"
compile build "What builds the package itself" "$new/build.in"
compile gpu "What the GPU image installs" --extra tracing pyproject.toml
# shellcheck disable=SC2086
compile cpu "What the CPU image installs" --extra tracing ${TORCH_PIP_ARGS:-} pyproject.toml
