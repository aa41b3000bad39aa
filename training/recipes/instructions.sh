#!/usr/bin/env bash
# The book's instruction fine-tuning (chapter 7), from any base:
#
#   training/recipes/instructions.sh BASE OUT [more flags of `penwright-train instruct`]
#
# BASE is a checkpoint directory: the checkpoint/scratch/base, or a GPT-2 that
# `penwright-train import` wrote. The data are the book's 1,100 instructions, below PENWRIGHT_DATA or
# fetched into data/.
#
# The book trains every weight of GPT-2 medium (355M) for 2 epochs, at batch size 8 and learning rate
# 5e-5 with AdamW, weight decay 0.1. What it reports, and what can be shown here:
#
#   training loss after 2 epochs      about 0.30    in OUT.run/metrics.jsonl
#   validation loss after 2 epochs    about 0.66    as `validation` on the card
#   score by Llama 3 8B, 0 to 100     about 50      `penwright-train judge`, with a judge of one's own
#
# The book's numbers are for its own split of 935, 55 and 110 rows in file order, with repeated rows
# in it; here repeated rows leave first, and the split follows from the text. Its loss also counts
# the prompt's tokens; here, the response's alone count. So the numbers compare in kind, not to the
# digit. GPT-2 medium's weights and Llama 3 have to be downloaded: neither comes with this repository,
# and the book's numbers were not measured again with them.
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: $0 BASE OUT [FLAGS]" >&2; exit 2; }
base=$1 out=$2
shift 2
train="${BIN:-.venv/bin}/penwright-train"
data="${PENWRIGHT_DATA:+$PENWRIGHT_DATA/instructions}"
data="${data:-data}/instruction-data.json"
[ -e "$data" ] || "$train" data instructions --out "$(dirname "$data")"

"$train" instruct --base "$base" --data "$data" --out "$out" \
  --method full --epochs 2 --batch-size 8 --lr 5e-5 --weight-decay 0.1 --schedule constant --warmup 0 \
  --licence "Instruction data of 'Build a Large Language Model (From Scratch)', by S. Raschka: Apache-2.0" \
  "$@"
"$train" evaluate "$out" --data "$data"
