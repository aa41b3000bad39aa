"""Run the benchmarks, and write what they found into README.md between its two markers.

    make bench                                       all of them, on an idle machine; hours
    python -m benchmarks.report --only decode serve  some of them
    python -m benchmarks.report --only train --nanogpt DIR   training, beside others
    python -m benchmarks.report --only               none: the table anew, from benchmarks/results

Every number in the table is read from benchmarks/results/*.json, which hold all rounds, the
machine, the versions, the date and the command.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record, report_training
from benchmarks.cells import number, ratio
from benchmarks.systems import OURS

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- results: written by benchmarks.report -->", "<!-- end of the results -->"
ENGINE = (
    *("decode", "smollm2", "smollm2-8-bits", "smollm2-long", "llama-1b"),
    *("classify", "classify-smollm2", "mixed", "adapters"),
    *("speculation", "forced_text", "serve", "fairness", "startup"),
)
TRAINING = ("train", "lora", "finetune", "muon")
"""These want a peer's clone or a text to be named, or hours: only those that --only names run."""
NAMES = (*ENGINE, *TRAINING)
_COMMANDS = {
    "decode": ["benchmarks.decode", "--check"],
    "smollm2": [
        *("benchmarks.decode", "--model", "smollm2", "--rows", "1", "16", "prefill", "--systems"),
        *(OURS, "only reading", "llama.cpp-q4_0", "llama.cpp-q4_1"),
    ],
    "smollm2-8-bits": [
        *("benchmarks.decode", "--model", "smollm2", "--rows", "1", "16", "--systems"),
        *("penwright-int8", "llama.cpp-q8_0"),
    ],
    # Beside the peer that is fastest above: with the others it takes hours.
    "smollm2-long": [
        *("benchmarks.decode", "--model", "smollm2", "--rows", "32", "long-prefill", "--systems"),
        *(OURS, "llama.cpp-q4_0"),
    ],
    "llama-1b": ["benchmarks.decode", "--model", "llama-1b"],
    "classify-smollm2": ["benchmarks.classify", "--model", "smollm2"],
}

Goals = Mapping[str, tuple[tuple[str, float], ...]]

GOALS: Goals = {
    "decoding one sequence": (
        ("llama.cpp-q8_0", 1.5),
        ("ctranslate2-int8", 3.0),
        ("transformers-fp32", 9.0),
    ),
    "16 sequences at once": (("llama.cpp-q8_0", 2.2), ("ctranslate2-int8", 2.2)),
    "prefill of 512 tokens": (("", 1.0),),
    "classifying messages of mixed length": (("as they come", 4.0),),
}
"""What each work is to be faster by, and than whom: "" is the best peer, "as they come" the best
of those that do not sort."""
SMOLLM2: Goals = {
    "decoding one sequence": (("", 1.5), ("only reading", 0.9)),
    "16 sequences at once": (("", 3.0),),
    "32 sequences at once": (("", 3.0),),
    "prefill of 512 tokens": (("", 1.3),),
    "prefill of 4,000 tokens": (("", 1.3),),
}
FORCED_TEXT = 2.0
LLAMA_1B: Goals = {
    "decoding one sequence": (("", 1.2), ("only reading", 0.9)),
    "16 sequences at once": (("", 2.5),),
}

Run = dict[str, Any]


def measure(names: Sequence[str], passed: Sequence[str]) -> None:
    """Run each benchmark in a process of its own, so that nothing of one is left for the next."""
    for name in names:
        out = record.RESULTS / f"{name}.json"
        command = [sys.executable, "-m", *_COMMANDS.get(name, [f"benchmarks.{name}"]), *passed]
        print(f"== {name}", flush=True)
        subprocess.run([*command, "--json", str(out)], cwd=README.parent.parent, check=True)


def read_results(directory: Path) -> dict[str, Run]:
    return {path.stem: json.loads(path.read_text("utf-8")) for path in directory.glob("*.json")}


def report(results: dict[str, Run]) -> str:
    """The text between the markers."""
    parts: list[str] = []
    for name, section in SECTIONS.items():
        if name in results:
            parts += [section(results[name]), "", provenance(results[name]), ""]
    return "\n".join(parts).strip()


def provenance(run: Run) -> str:
    """Where the numbers above are from."""
    machine, versions = run["machine"], run["versions"]
    packages = ", ".join(f"{k} {v}" for k, v in versions.items() if v != "not installed")
    rough = " **A quick run: it shows that all runs, and nothing else.**" if run["quick"] else ""
    return (
        f"`{run['command']}`, {run['date']}, n = {run['rounds']} rounds.{rough} "
        f"{machine['processor']} (family/model {machine['family']}, "
        f"{', '.join(machine['features'])}), {machine['cores']} cores, {run['threads']} threads, "
        f"{machine['memory_gb']} GB; {packages}."
    )


def _rates(run: Run, goals: Goals = GOALS, ours: str = OURS) -> str:
    lines = [
        f"| work | {ours} | peers, the best first | {ours} is faster by |",
        "|---|---|---|---|",
    ]
    for work in run["works"]:
        systems = work["systems"]
        mine = systems.get(ours)
        peers = sorted(
            (name for name in systems if name != ours), key=lambda n: -systems[n]["median"]
        )
        cells = [f"{name} {number(systems[name]['median'])}" for name in peers]
        cells += [f"{name}: {reason}" for name, reason in work["failed"].items() if name != ours]
        found = number(mine["median"]) if mine else work["failed"].get(ours, "not run")
        wanted = goals.get(work["work"], (("", 0.0),))
        ratios = [ratio(work, *goal) for goal in wanted]
        lines.append(
            f"| {work['work']}, {work['unit']} | {found} | {'; '.join(cells)} "
            f"| {'; '.join(ratios)} |"
        )
    return "\n".join(lines)


def _adapters(run: Run) -> str:
    row = run["works"][0]["work"]
    lines = [f"| {row} | of the rate without any | they take |", "|---|---|---|"]
    for kind, share in run["of_the_rate_without"].items():
        goal = " (goal 0.9)" if kind == "queries and values" else ""
        lines.append(f"| {kind} | {share}{goal} | {run['bytes'][kind] / 1e6:.0f} MB |")
    return "\n".join(lines)


def _speculation(run: Run) -> str:
    lines = ["| answers | sampling | median | least | n |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['kind']} | {row['sampling']} | {row['median']} | {row['min']} | {row['n']} |"
        for row in run["summary"]
    ]
    return "\n".join(lines)


def _forced_text(run: Run) -> str:
    lines = ["| JSON of a schema | faster by | steps, without and with |", "|---|---|---|"]
    for row in run["schemas"]:
        steps = f"{row['without']['steps']} and {row['with']['steps']}"
        lines.append(f"| {row['name']}, {row['kind']} | {row['ratio']:.2f} × | {steps} |")
    missed = "" if run["summary"]["median"] >= FORCED_TEXT else ": missed"
    lines.append(f"| median (goal {FORCED_TEXT:g}{missed}) | {run['summary']['median']:.2f} × | |")
    return "\n".join(lines)


def _mixed(run: Run) -> str:
    memory = {name: size / 1e6 for name, size in run["resident_bytes"].items()}
    lines = ["| three tasks over one base | measured | goal |", "|---|---|---|"]
    ratio = run["mixed_to_unmixed"]
    lines.append(f"| rate of mixed traffic, of the rate of its parts | {ratio:.2f} | 0.85 |")
    cells = ", ".join(f"{name} {size:.0f} MB" for name, size in memory.items())
    lines.append(f"| resident memory | {cells} | one base and the adapters |")
    return "\n".join(lines)


def _serve(run: Run) -> str:
    lines = ["| through HTTP | measured | goal |", "|---|---|---|"]
    for name, share in run["share_of_engine"].items():
        goal = "0.90" if "piece" in name else "reported"
        lines.append(
            f"| {run['works'][0]['work']}, {name}: share of the engine | {share} | {goal} |"
        )
    short = run["short_beside_long"]
    for key, text in (("alone_ttft_ms", "alone"), ("beside_ttft_ms", "beside 900 tokens")):
        if values := short[key]:
            cell = f"p50 {values['p50']} ms, p99 {values['p99']} ms, n={values['n']}"
            lines.append(f"| TTFT of a short request, {text} | {cell} | |")
    found = short.get("p99_beside_to_p50_alone", "no figure")
    lines.append(f"| p99 beside long ones, of p50 without them | {found} | below 3 |")
    return "\n".join(lines)


def _fairness(run: Run) -> str:
    lines = ["| who asks for little | measured | goal |", "|---|---|---|"]

    def line(text: str, values: Mapping[str, float], goal: str) -> None:
        shown = ", ".join(f"{p} {values[p]} ms" for p in ("p50", "p95", "p99"))
        lines.append(f"| {text} | {shown}, n={values['n']} | {goal} |")

    for kind, values in run["beside_batches_ms"].items():
        line(f"/{kind} beside batches of 64 texts, until its end", values, "p95 below 500 ms")
    line("TTFT, alone", run["ttft_alone_ms"], "")
    line("TTFT, beside prompts of 4,000 tokens", run["ttft_beside_long_prompts_ms"], "")
    lines.append(f"| p99 of it, of that alone | {run['p99_ratio']} | below 1.5 |")
    share = run["cost"]["share"]
    lines.append(f"| rate of 96 sequences of 8 clients, of those of one | {share} | 0.97 |")
    return "\n".join(lines)


def _startup(run: Run) -> str:
    lines = ["| start | ready after | resident | of it files | peak |", "|---|---|---|---|---|"]
    for name, found in run["starts"].items():
        memory = found["memory_mb"]
        cells = " | ".join(f"{memory[key]:.0f} MB" for key in ("resident", "files", "peak"))
        lines.append(f"| {name} | {found['seconds_to_ready']:.2f} s | {cells} |")
    return "\n".join(lines)


SECTIONS: dict[str, Callable[[Run], str]] = {
    "decode": _rates,
    "smollm2": partial(_rates, goals=SMOLLM2),
    "smollm2-8-bits": partial(_rates, goals=SMOLLM2, ours="penwright-int8"),
    "smollm2-long": partial(_rates, goals=SMOLLM2),
    "llama-1b": partial(_rates, goals=LLAMA_1B),
    "classify": _rates,
    "classify-smollm2": _rates,
    "mixed": _mixed,
    "adapters": _adapters,
    "speculation": _speculation,
    "forced_text": _forced_text,
    "serve": _serve,
    "fairness": _fairness,
    "startup": _startup,
    "train": report_training.steps,
    "lora": report_training.adapters,
    "finetune": report_training.methods,
    "muon": report_training.optimizers,
}


def replace(text: str, found: str) -> str:
    """`text` with what stands between the markers replaced.

    Raises:
        SystemExit: there are no markers.
    """
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{README} lacks the markers {BEGIN!r} and {END!r}")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n\n{found}\n\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=NAMES, default=ENGINE)
    known, passed = parser.parse_known_args()  # the rest is for the benchmarks: --rounds, --work
    measure(known.only, passed)
    text = replace(README.read_text("utf-8"), report(read_results(record.RESULTS)))
    README.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
