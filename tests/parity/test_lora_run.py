"""A LoRA run beside `peft` and `transformers`: with the same first matrices, optimizer and clipping
each step has the same loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoint import Base
from model.lora import LoRASettings
from model.prompts import Message
from tests.parity.exported import new_base
from training.loop.run import Run
from training.loop.settings import LoopSettings
from training.loop.task import IGNORE
from training.objectives.conversations import Conversation, Conversations, tokens_of
from training.objectives.responses import InstructionTuning
from training.tuning.methods import start_tuning

# peft still calls transformers by a name that transformers 5 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

STEPS, LR, CLIP = 5, 1e-2, 0.5
"""So fast that the norm of the gradient, 15 at first, halves: AdamW would not show the clipping
where all steps are scaled alike."""
LAYERS = {
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
"""One pair of each, as `peft` has them."""
SHAPE: dict[str, Any] = {
    "rank": 4,
    "alpha": 6.0,
    "targets": tuple(name.rpartition(".")[2] for name in LAYERS),
}
SETTINGS = LoopSettings(
    steps=STEPS, batch_size=2, lr=LR, schedule="constant", warmup=0, weight_decay=0.1, clip=CLIP,
    eval_every=STEPS, save_every=STEPS, precision="fp32", device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Base]:
    return new_base(tmp_path_factory.mktemp("run"), "llama-groups")


def conversations(base: Base) -> tuple[Conversation, ...]:
    """Two, of different lengths, of which the answers alone are learnt."""
    assert base.template is not None
    template = base.template
    texts = [("Name it.", "A dog and a cat"), ("What do the birds do in spring?", "They sing.")]
    found = tuple(
        tokens_of([Message("user", asked), Message("assistant", said)], base.tokenizer, template)
        for asked, said in texts
    )
    assert len({len(each.tokens) for each in found}) == 2
    assert all(False in each.learnt and True in each.learnt for each in found)
    return found


def our_losses(
    base: Base, rows: tuple[Conversation, ...], shape: LoRASettings, directory: Path
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Each step's record, and by the names of its sites what the adapter was at first."""
    tuning = start_tuning(base, "lora", shape, None, SETTINGS)
    lora = tuning.network.lora
    assert lora is not None
    assert base.template is not None
    first = {name: tensor.clone() for name, tensor in lora.state_dict().items()}
    both = Conversations(rows, ())
    task = InstructionTuning(tuning, both, both, SETTINGS, base.template)
    run = Run(task, SETTINGS, directory)
    task.trained.train()
    return first, [run.step() for _ in range(STEPS)]


def their_losses(
    peft: Any, peer: Any, rows: tuple[Conversation, ...], first: dict[str, Tensor], **settings: Any
) -> list[float]:
    """A plain loop: `model(**batch).loss`, the mean over the learnt tokens."""
    config = peft.LoraConfig(
        r=SHAPE["rank"], lora_alpha=SHAPE["alpha"], lora_dropout=0.0, task_type="CAUSAL_LM",
        target_modules=[name.rpartition(".")[2] for name in LAYERS.values()], **settings,
    )  # fmt: skip
    model = peft.get_peft_model(peer, config).train()
    try:
        copy_first(model, first)
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [{"params": [p for p in learning if p.ndim == 2], "weight_decay": 0.1},
             {"params": [p for p in learning if p.ndim != 2], "weight_decay": 0.0}],
            lr=LR, betas=(0.9, 0.95),
        )  # fmt: skip
        losses = []
        for _ in range(STEPS):
            loss = model(**padded(rows)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, CLIP)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses
    finally:
        model.unload()


@torch.no_grad()
def copy_first(model: Any, first: dict[str, Tensor]) -> None:
    """Give peft's layers our pairs; what the magnitudes are both say alike."""
    parameters = dict(model.named_parameters())
    theirs = {"a": "lora_A", "b": "lora_B", "magnitude": "lora_magnitude_vector"}
    for name, ours in first.items():
        kind, site = name.split(".")
        _, block, part = site.split("/", 2)
        layer = f"base_model.model.model.layers.{block}.{LAYERS[part.replace('/', '.')]}"
        parameter = parameters[f"{layer}.{theirs[kind]}.default.weight"]
        if kind == "magnitude":
            assert torch.allclose(parameter, ours, rtol=1e-5)
        parameter.copy_(ours)


def padded(rows: tuple[Conversation, ...]) -> dict[str, Tensor]:
    longest = max(len(row.tokens) for row in rows)
    ids, mask = torch.zeros(2, longest, dtype=torch.long), torch.zeros(2, longest, dtype=torch.long)
    labels = torch.full((2, longest), IGNORE)
    for number, row in enumerate(rows):
        ids[number, : len(row.tokens)] = torch.tensor(row.tokens)
        mask[number, : len(row.tokens)] = 1
        for place, learnt in enumerate(row.learnt):
            if learnt:
                labels[number, place] = row.tokens[place]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"scaling": "sqrt-rank"}, {"use_rslora": True}),
        ({"dora": True}, {"use_dora": True}),
    ],
    ids=str,
)
def test_each_step_has_the_loss_of_peft(
    pair: tuple[Any, Base], ours: dict[str, Any], theirs: dict[str, Any], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    peer, base = pair
    rows = conversations(base)
    first, records = our_losses(base, rows, LoRASettings(**SHAPE, **ours), tmp_path)
    assert all(record["grad_norm"] > CLIP for record in records), "it must be clipped"
    losses = [record["loss"] for record in records]
    assert losses == pytest.approx(their_losses(peft, peer, rows, first, **theirs), abs=1e-4)
    assert losses[0] - losses[-1] > 0.05, "something must be learnt"
