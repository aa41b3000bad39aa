#!/usr/bin/env bash
# Train the models from scratch, checkpoints/scratch, from the files below PENWRIGHT_DATA:
#
#   text/*.txt.xz                           text for the base; documents end with <|endoftext|>
#   spam/SMSSpamCollection.tsv              `penwright-train data spam` fetches it
#   instructions/instruction-data.json      `penwright-train data instructions` fetches it
#   instructions/dolly-short-answers.json.xz
#   eval/                                   what the base is measured on: WikiText-2, BLiMP
#
# and from WordNet, /usr/share/wordnet (`apt-get install wordnet-base`) or the directory WORDNET.
#
# The base is trained in three pieces, as that one was: a whole run, more text at a constant
# rate, and a decay in which two fifths of the tokens are language exercises, from which so small a
# network learns to copy and to inflect words. On a GPU, make the second piece longer: STEPS=60000.
#
# Runs (states, metrics, plots) are kept in runs/scratch; what is done is not done again. The models
# are built there, too: checkpoints/scratch is replaced at the end, by a whole set.
set -euo pipefail

data=${PENWRIGHT_DATA:?"name the directory of training data"}
train="${BIN:-.venv/bin}/penwright-train"
runs=runs/scratch
models=$runs/models
exercises=$runs/exercises
out=checkpoints/scratch
mkdir -p "$models" "$(dirname "$out")"

resume() { [ -e "$1/state/last.pt" ] && echo --resume || true; }

[ -e "$runs/tokenizer.tiktoken" ] ||
  "$train" tokenizer --data "$data"/text/*.xz --vocab-size 8192 --out "$runs/tokenizer.tiktoken"

[ -e "$exercises/exercises-train.json" ] ||
  "${BIN:-.venv/bin}/python" -m examples.exercises --wordnet "${WORDNET:-/usr/share/wordnet}" \
    --count 120000 --out "$exercises"

text=("$data"/text/{wikipedia-articles,gutenberg-children,gutenberg-plain}.txt.xz
  "$data"/text/{openstax-textbooks,simple-english}.txt.xz)
licences=(
  --licence "Project Gutenberg books: public domain in the US"
  --licence "English Wikipedia articles, 2014, by their authors: CC BY-SA 3.0"
  --licence "OpenStax textbooks, by Rice University: CC BY 4.0"
  --licence "Graded news and children's stories: CC BY and CC BY-SA; country facts: public domain"
)
wordnet="Exercises made from WordNet 3.0, Copyright 2006 by Princeton University: WordNet licence"
common=(--val-fraction 0.005 --optimizer muon --lr 2e-3 --eval-every 100 --save-every 50)

[ -e "$runs/first/card.json" ] ||
  "$train" pretrain --data "$data"/text/*.xz --tokenizer "$runs/tokenizer.tiktoken" --preset small \
    --out "$runs/first" --run "$runs/first.run" "${common[@]}" --steps 1700 --batch-size 8 \
    --warmup 50 --schedule wsd --eval-batches 12 "${licences[@]}" $(resume "$runs/first.run")

[ -e "$runs/second/card.json" ] ||
  "$train" pretrain --data "${text[@]}" --weights 0.40 0.25 0.13 0.10 0.12 --base "$runs/first" \
    --out "$runs/second" --run "$runs/second.run" "${common[@]}" --steps "${STEPS:-324}" \
    --batch-size 16 --warmup 40 --schedule constant --eval-batches 6 "${licences[@]}" \
    $(resume "$runs/second.run")

[ -e "$models/base/card.json" ] ||
  "$train" pretrain --data "${text[@]}" "$exercises/exercises-plain.txt" \
    --weights 0.24 0.15 0.08 0.06 0.07 0.40 --base "$runs/second" \
    --out "$models/base" --run "$runs/base.run" "${common[@]}" --steps 500 --batch-size 16 \
    --warmup 10 --schedule wsd --decay 0.7 --final-lr 0.02 --eval-batches 6 --sample-every 400 \
    --eval-text "$data/eval/wikitext-2-valid.txt" --eval-blimp "$data/eval/blimp.jsonl.xz" \
    "${licences[@]}" --licence "$wordnet" $(resume "$runs/base.run")

# Adapters belong to one base: with another one they start anew.
base_id=$(sha256sum <"$models/base/card.json")
if [ "$base_id" != "$(cat "$runs/base.id" 2>/dev/null)" ]; then
  rm -rf "$runs/spam.run" "$runs/instruct.run" "$models/spam" "$models/instruct"
  echo "$base_id" >"$runs/base.id"
fi

"$train" classify --base "$models/base" --data "$data/spam/SMSSpamCollection.tsv" \
  --out "$models/spam" --run "$runs/spam.run" --positive spam --distinct near --folds 5 \
  --lora-rank 12 --epochs 3 --lm-weight 0.5 --augment all=0.15 --eval-every 230 \
  --licence "UCI SMS Spam Collection v.1, by T. A. Almeida and J. M. Gomez Hidalgo: CC BY 4.0" \
  $(resume "$runs/spam.run")

instructions="$data/instructions"
"$train" instruct --base "$models/base" --out "$models/instruct" --run "$runs/instruct.run" \
  --data "$instructions/instruction-data.json" "$instructions/dolly-short-answers.json.xz" \
  "$exercises/exercises-train.json" --repeat 6 0.5 0.22 \
  --test "$instructions/instruction-data.json" "$exercises/exercises-test.json" \
  --lora-rank 32 --batch-size 16 --lr 1.5e-3 --warmup 50 --epochs 1 \
  --eval-every 300 --eval-batches 20 --save-every 300 \
  --licence "Instruction data of 'Build a Large Language Model (From Scratch)', by S. Raschka: Apache-2.0" \
  --licence "Databricks Dolly 15k, short answers: CC BY-SA 3.0" --licence "$wordnet" \
  $(resume "$runs/instruct.run")

cat >"$models/models.json" <<'JSON'
{"format_version": 1, "generate": "base", "classify": "spam", "instruct": "instruct"}
JSON

[ ! -e "$out/README.md" ] || cp "$out/README.md" "$models"
rm -rf "$out.old"
[ ! -e "$out" ] || mv "$out" "$out.old"
mv "$models" "$out"
rm -rf "$out.old"
