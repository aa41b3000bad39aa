#!/usr/bin/env bash
# The book's LoRA classifier: adapters of rank 16 on every projection of a base, on as many spam as
# ham messages, five epochs.
#
#   training/recipes/lora.sh BASE [OUT] [FLAG...]          OUT: runs/spam-lora
#
# BASE, MESSAGES, LR and further flags are as in spam.sh.
#
#                                  parameters that learn   training   validation   test accuracy
#   the book, GPT-2 124M                       2,666,528    100.00%       96.64%          98.00%
#   here, GPT-2 124M           2,359,296 + 1,538 of head
#   here, the base from scratch        589,824 + 770 of head     99.42%       93.55%          95.95%
#
# The book has separate projections for query, key and value, wraps the output layer it classifies
# with, and so also freezes that layer's fresh weights. Here the three are one projection, as in
# GPT-2's own weights, and the head is a plain layer that learns.
set -euo pipefail

base=${1:?"name the directory of a base"}
out=${2:-runs/spam-lora}
messages=${MESSAGES:-data/SMSSpamCollection.tsv}
train="${BIN:-.venv/bin}/penwright-train"

[ -e "$messages" ] || "$train" data spam --out "$(dirname "$messages")"

"$train" classify --base "$base" --data "$messages" --out "$out" --method lora --lora-rank 16 \
  --lora-alpha 16 --balance undersample --positive spam --epochs 5 --batch-size 8 \
  --lr "${LR:-8e-4}" --weight-decay 0.1 --schedule "${SCHEDULE:-constant}" "${@:3}"
