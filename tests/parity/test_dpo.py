"""Direct preference optimization beside `transformers`: the same log-probabilities, loss and
gradient as the paper's equation 7 on its network."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.checkpoint import load_base
from model.lora import LoRASettings
from model.prompts import Alpaca
from training.cli import main
from training.data.preferences import Preference
from training.loop.settings import LoopSettings
from training.objectives.preferences import Objective, PreferenceTuning, encode
from training.tasks.dpo import start

ROWS = (
    Preference("Aa", "", "bc de", "the other"),
    Preference("Name it.", "x y", "q", "a rather longer answer"),
    Preference("Go", "", "gone", "go"),
)
BETA = 0.3


def answer_log_prob(peer: Any, tokens: tuple[int, ...], prompt_length: int) -> Tensor:
    """Summed over the tokens after the prompt, one row at a time and without padding."""
    ids = torch.tensor([tokens])
    table = F.log_softmax(peer(ids).logits[0, :-1], dim=-1)
    every = table.gather(1, ids[0, 1:, None]).squeeze(1)
    return every[prompt_length - 1 :].sum()


def test_loss_and_gradient_are_those_of_transformers(tmp_path: Path, write_hf: Any) -> None:
    fields = {"n_layer": 2, "n_positions": 256}
    reference = write_hf(tmp_path / "reference", seed=1, **fields)
    policy = write_hf(tmp_path / "policy", seed=1, **fields)
    with torch.no_grad():  # as after some training: near the reference, but not it
        for number, parameter in enumerate(policy.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    policy.save_pretrained(tmp_path / "policy")
    for name in ("reference", "policy"):
        assert main(["import", str(tmp_path / name), "--out", str(tmp_path / f"own-{name}")]) == 0

    base, tuned = (load_base(tmp_path / f"own-{name}") for name in ("reference", "policy"))
    pairs = encode(ROWS, base.tokenizer, base.config.context_length, Alpaca())
    assert len(pairs) == len(ROWS)
    losses = []
    for chosen, rejected in zip(pairs.chosen, pairs.rejected, strict=True):
        change = []
        for pair in (chosen, rejected):
            with torch.no_grad():
                before = answer_log_prob(reference, pair.tokens, pair.learnt.index(True))
            change.append(answer_log_prob(policy, pair.tokens, pair.learnt.index(True)) - before)
        losses.append(-F.logsigmoid(BETA * (change[0] - change[1])))
    expected = torch.stack(losses).sum()
    expected.backward()  # type: ignore[no-untyped-call]

    settings = LoopSettings(steps=1, device="cpu", precision="fp32")
    tuning, frozen = start(base, None, "full", LoRASettings(), settings)
    task = PreferenceTuning(tuning, frozen, pairs, pairs, Objective(BETA), settings, Alpaca())
    tuning.network.model.load_state_dict(tuned.model.state_dict())
    loss = task.loss(task.batch(range(len(ROWS))))
    loss.backward()  # type: ignore[no-untyped-call]

    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert abs(loss.item() - len(ROWS) * 0.6931) > 0.1, "the networks must differ"
    mine, peers = (
        tuning.network.model.embedding.weight.grad,
        policy.transformer.wte.weight.grad,
    )
    assert mine is not None
    assert (mine - peers).abs().max() <= 1e-3 * peers.abs().max()
