#!/usr/bin/env bash
# Train the bundled models, checkpoints/default, from the files below PENWRIGHT_DATA:
#
#   text/*.txt.xz                        text for the base; documents end with <|endoftext|>
#   spam/SMSSpamCollection.tsv           `penwright-train data spam` fetches it
#   instructions/instruction-data.json   `penwright-train data instructions` fetches it
#
# Runs (states, metrics, plots) are kept in runs/default; what is done is not done again. The models
# are built there, too: checkpoints/default is replaced at the end, by a whole set.
set -euo pipefail

data=${PENWRIGHT_DATA:?"name the directory of training data"}
train="${BIN:-.venv/bin}/penwright-train"
runs=runs/default
models=$runs/models
out=checkpoints/default
mkdir -p "$models" "$(dirname "$out")"

resume() { [ -e "$1/state/last.pt" ] && echo --resume || true; }

[ -e "$runs/tokenizer.tiktoken" ] ||
  "$train" tokenizer --data "$data"/text/*.xz --vocab-size 8192 --out "$runs/tokenizer.tiktoken"

"$train" pretrain --data "$data"/text/*.xz --tokenizer "$runs/tokenizer.tiktoken" \
  --out "$models/base" --run "$runs/base.run" --preset small --val-fraction 0.005 \
  --steps 1700 --batch-size 8 --optimizer muon --lr 2e-3 --warmup 50 --schedule wsd \
  --eval-every 100 --eval-batches 12 --save-every 50 --sample-every 500 \
  --licence "Project Gutenberg books: public domain in the US" \
  --licence "English Wikipedia articles, 2014, by their authors: CC BY-SA 3.0" \
  --licence "OpenStax textbooks, by Rice University: CC BY 4.0" \
  --licence "Graded news and children's stories: CC BY and CC BY-SA; country facts: public domain" \
  $(resume "$runs/base.run")

# Adapters belong to one base: with another one they start anew.
base_id=$(sha256sum <"$models/base/card.json")
if [ "$base_id" != "$(cat "$runs/base.id" 2>/dev/null)" ]; then
  rm -rf "$runs/spam.run" "$runs/instruct.run" "$models/spam" "$models/instruct"
  echo "$base_id" >"$runs/base.id"
fi

"$train" classify --base "$models/base" --data "$data/spam/SMSSpamCollection.tsv" \
  --out "$models/spam" --run "$runs/spam.run" --positive spam --epochs 3 \
  --licence "UCI SMS Spam Collection v.1, by T. A. Almeida and J. M. Gomez Hidalgo: CC BY 4.0" \
  $(resume "$runs/spam.run")

"$train" instruct --base "$models/base" --data "$data/instructions/instruction-data.json" \
  --out "$models/instruct" --run "$runs/instruct.run" --epochs 5 \
  --licence "Instruction data of 'Build a Large Language Model (From Scratch)', by S. Raschka: Apache-2.0" \
  $(resume "$runs/instruct.run")

cat >"$models/models.json" <<'JSON'
{"format_version": 1, "generate": "base", "classify": "spam", "instruct": "instruct"}
JSON

rm -rf "$out.old"
[ ! -e "$out" ] || mv "$out" "$out.old"
mv "$models" "$out"
rm -rf "$out.old"
