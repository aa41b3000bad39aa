#!/usr/bin/env bash
# Train the bundled models, checkpoints/default, from the files below PENWRIGHT_DATA:
#
#   text/*.txt.xz                        text for the base; documents end with <|endoftext|>
#   spam/SMSSpamCollection.tsv           `penwright-train data spam` fetches it
#   instructions/instruction-data.json   `penwright-train data instructions` fetches it
#
# Runs (states, metrics, plots) are kept in runs/default; what is done is not done again.
set -euo pipefail

data=${PENWRIGHT_DATA:?"name the directory of training data"}
train="${BIN:-.venv/bin}/penwright-train"
runs=runs/default
out=checkpoints/default
mkdir -p "$runs" "$out"

resume() { [ -e "$1/state/last.pt" ] && echo --resume || true; }

[ -e "$runs/tokenizer.tiktoken" ] ||
  "$train" tokenizer --data "$data"/text/*.xz --vocab-size 8192 --out "$runs/tokenizer.tiktoken"

"$train" pretrain --data "$data"/text/*.xz --tokenizer "$runs/tokenizer.tiktoken" \
  --out "$out/base" --run "$runs/base.run" --preset small --val-fraction 0.005 \
  --steps 1700 --batch-size 8 --optimizer muon --lr 2e-3 --warmup 50 --schedule wsd \
  --eval-every 100 --eval-batches 12 --save-every 50 --sample-every 500 \
  --licence "Project Gutenberg books: public domain in the US" \
  --licence "English Wikipedia articles, 2014, by their authors: CC BY-SA 3.0" \
  --licence "OpenStax textbooks, by Rice University: CC BY 4.0" \
  --licence "Graded news and children's stories: CC BY and CC BY-SA; country facts: public domain" \
  $(resume "$runs/base.run")

"$train" classify --base "$out/base" --data "$data/spam/SMSSpamCollection.tsv" \
  --out "$out/spam" --run "$runs/spam.run" --positive spam \
  --licence "UCI SMS Spam Collection v.1, by T. A. Almeida and J. M. Gomez Hidalgo: CC BY 4.0" \
  $(resume "$runs/spam.run")

"$train" instruct --base "$out/base" --data "$data/instructions/instruction-data.json" \
  --out "$out/instruct" --run "$runs/instruct.run" \
  --licence "Instruction data of 'Build a Large Language Model (From Scratch)', by S. Raschka: Apache-2.0" \
  $(resume "$runs/instruct.run")

cat >"$out/models.json" <<'JSON'
{"format_version": 1, "generate": "base", "classify": "spam", "instruct": "instruct"}
JSON
