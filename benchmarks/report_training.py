"""The tables of the benchmarks of training, for `benchmarks.report`."""

from typing import Any

from benchmarks.cells import number, ratio
from benchmarks.systems import OURS

Run = dict[str, Any]


def steps(run: Run) -> str:
    """`train`: a line for each peer, as it comes and tuned."""
    lines = [
        f"| step of training | {OURS}, tokens/s | peer, tokens/s | {OURS} is faster by "
        "| of the peak FLOPs |",
        "|---|---|---|---|---|",
    ]
    for work in run["works"]:
        systems, used = work["systems"], work.get("utilisation", {})
        rows = dict.fromkeys([*systems, *work["failed"]])
        for peer in [name for name in rows if name != OURS]:
            goal = 1.0 if peer.endswith(" tuned") else 1.2
            rate = work["failed"].get(peer) or number(systems[peer]["median"])
            ours = number(systems[OURS]["median"]) if OURS in systems else "not run"
            share = ", ".join(f"{n} {used[n]:.1%}" for n in (OURS, peer) if n in used)
            where = work["work"].partition(", beside")[0]
            lines.append(
                f"| {where} | {ours} | {peer} {rate} | {ratio(work, peer, goal)} | {share} |"
            )
    return "\n".join(lines)


def adapters(run: Run) -> str:
    """`lora`: a line for each form of a peer, and one for our own default."""
    lines = [
        f"| step of LoRA | {OURS}, tokens/s | other, tokens/s | {OURS} is faster by "
        "| options of the other |",
        "|---|---|---|---|---|",
    ]
    for work in run["works"]:
        where, _, beside = work["work"].partition(", beside ")
        systems = work["systems"]
        best = run["about"]["tuned"].get(beside, {}).get("best", {})
        for other in dict.fromkeys([*systems, *work["failed"]]):
            if other == OURS:
                continue
            rate = work["failed"].get(other) or number(systems[other]["median"])
            ours = number(systems[OURS]["median"]) if OURS in systems else "not run"
            chosen = best if other.endswith(" tuned") else {}
            options = ", ".join(f"{name} {value}" for name, value in chosen.items())
            lines.append(
                f"| {where} | {ours} | {other} {rate} | {ratio(work, other, 0.0)} | {options} |"
            )
    return "\n".join(lines)


def methods(run: Run) -> str:
    """`finetune`."""
    lines = [
        "| fine-tuning | texts/s | cost of a step, of one with every weight |",
        "|---|---|---|",
    ]
    (work,) = run["works"]
    for method, cost in run["cost_of_full"].items():
        rate = number(work["systems"][method]["median"])
        lines.append(f"| {work['work']}, {method} | {rate} | {cost:.2f} |")
    return "\n".join(lines)


def optimizers(run: Run) -> str:
    """`muon`."""
    found = run["result"]
    best, final, share = found["best_lr"], found["final_loss"], found["muon_tokens_of_adamw"]
    edge = "".join(
        f"; {n}'s is the last one tried" for n, is_last in found["lr_at_edge"].items() if is_last
    )
    goal = found["goal"]
    missed = "" if share is not None and share <= goal else ": missed"
    said = "never there" if share is None else f"{'at most ' if found['at_most'] else ''}{share:g}"
    return "\n".join(
        [
            "| Muon beside AdamW | measured |",
            "|---|---|",
            *(
                f"| best learning rate of {n}, final loss | {best[n]:g}, {final[n]:.4f} |"
                for n in best
            ),
            f"| tokens of Muon to AdamW's final loss, of its | {said} (goal {goal:g}{missed}) |",
            f"| the same within Muon's longest run | {found['crossed_within_whole_run']} |",
            "",
            f"Learning rates tried: {_rates_tried(run)}{edge}.",
            "",
            "![Validation loss](results/muon.svg)",
        ]
    )


def _rates_tried(run: Run) -> str:
    return "; ".join(f"{name} {', '.join(curves)}" for name, curves in run["curves"].items())
