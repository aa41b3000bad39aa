"""Tokens per second of a training step: our loop and others', in turns, in one run.

    python -m benchmarks.train --nanogpt DIR [--book DIR] [--rounds 5] [--json FILE]
    python -m benchmarks.train --nanogpt DIR --tune         only choose the peers' best options
    python -m benchmarks.train --nanogpt DIR --device cuda  one GPU; tells FLOPs utilisation, too

Each peer takes part twice: as it comes on this device, and tuned, with the best of the options that
`training_setup.candidates` lists. What was best is kept in the work directory and tried again only
with --tune. All train the same network from the same weights on the same tokens, with AdamW and
clipping at 1.0, each in its author's own loop, run whole. A step is all that a step of it does.

Before anything is timed, each network gives its loss and the norm of its gradients on the same
tokens: a peer whose numbers differ from ours is not compared.
"""

import argparse
import dataclasses
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import record
from benchmarks.rounds import Outcome, Work, Workers, compare, say, table
from benchmarks.systems import OURS
from benchmarks.systems.training.base import Shape, Tuned
from benchmarks.training_setup import (
    PEERS,
    SHAPES,
    Options,
    as_it_comes,
    candidates,
    differs,
    peak_flops,
    prepare,
    utilisation,
)
from benchmarks.worker import Worker, WorkerFailed
from training.loop.settings import LoopSettings


@dataclasses.dataclass(frozen=True)
class Bench:
    """One size on one device."""

    shape: Shape | Tuned
    work: Path
    threads: int
    device: str
    sources: Mapping[str, str]
    """Where the clones of the peers are, by system."""
    ours: Options
    steps: int
    """Of a turn."""

    kind: ClassVar[str] = "training"
    """What the names of the systems begin with."""
    peers: ClassVar[Mapping[str, str]] = PEERS
    both: ClassVar[bool] = True
    """Whether a peer takes part as it comes even where it does so tuned."""

    def candidates(self, system: str) -> list[Options]:
        """What a tuned peer may choose from."""
        bf16 = LoopSettings(steps=1, device=self.device).autocast
        return candidates(system, self.device, bf16)

    def as_it_comes(self, peer: str) -> Options:
        return as_it_comes(peer, self.device)

    @property
    def kept(self) -> Path:
        """Where the peers' options are kept, once they are chosen."""
        return self.work / f"tuned-{self.device}-{self.threads}-threads.json"

    def of_ours(self) -> dict[str, Options]:
        """Our own forms that take part, by their names in the table; the first is compared."""
        return {OURS: self.ours}

    def differs(self, name: str, ours: Mapping[str, float], proof: Mapping[str, float]) -> str:
        """Why `name`, with this proof, is not compared with ours; "" if it is."""
        return differs(ours, proof)

    def options(self, system: str, chosen: Options) -> Options:
        source = {"source": self.sources[system]} if self.sources.get(system) else {}
        return {"shape": vars(self.shape), "device": self.device, **source, **chosen}

    def tune(self, system: str) -> dict[str, Any]:
        """Steps per second with each of the candidates, and which is the best."""
        tried: list[dict[str, Any]] = []
        for option in self.candidates(system):
            say(f"trying {system} with {option}")
            try:
                with self._worker(system, option) as worker:
                    worker.call("steps", count=1)
                    seconds = [worker.call("steps", count=self.steps).seconds for _ in range(2)]
                tried.append({"options": option, "rate": self._rate(min(seconds))})
            except WorkerFailed as error:
                tried.append({"options": option, "failed": str(error)})
        worked = [found for found in tried if "rate" in found]
        best = max(worked, key=lambda found: float(found["rate"]), default=tried[0])
        return {"best": best["options"], "tried": tried}

    def _worker(self, system: str, option: Options) -> Worker:
        return Worker(
            f"{self.kind}-{system}", self.work, self.threads, **self.options(system, option)
        )

    def _rate(self, seconds: float) -> float:
        return round(self.shape.tokens * self.steps / seconds, 1)

    def beside(
        self, peer: str, tuned: Options | None, rounds: int, row: str
    ) -> tuple[Outcome, dict[str, Any]]:
        """Ours and one peer, as it comes and tuned: few processes, so that memory suffices.

        Args:
            tuned: the options of its tuned form, which has no part in it if this is None.

        Raises:
            SystemExit: ours does not run.
        """
        forms = {name: (OURS, options) for name, options in self.of_ours().items()}
        if tuned is None or self.both:
            forms[peer] = (self.peers[peer], self.as_it_comes(peer))
        if tuned is not None:
            forms[f"{peer} tuned"] = (self.peers[peer], tuned)
        with Workers((), self.work, self.threads) as workers:
            for name, (system, chosen) in forms.items():
                options = self.options(system, chosen)
                workers.start(name, f"{self.kind}-{system}", self.work, self.threads, **options)
            if OURS not in workers.running:
                raise SystemExit(f"{OURS}: {workers.missing[OURS]}")
            proofs = self._check(workers)
            turns = {name: (name, self._turn(row)) for name in forms}
            (outcome,) = compare(workers, [Work({row: "tokens/s"}, turns)], rounds)
            return outcome, {"settings": workers.settings(), "proofs": proofs}

    def _check(self, workers: Workers) -> dict[str, Any]:
        proofs = {name: worker.call("check").value for name, worker in workers.running.items()}
        for name, proof in proofs.items():
            if reason := self.differs(name, proofs[OURS], proof):
                workers.drop(name, reason)
        return proofs

    def _turn(self, row: str) -> Any:
        def turn(worker: Worker, number: int) -> dict[str, float]:
            return {row: self._rate(worker.call("steps", count=self.steps).seconds)}

        return turn


def chosen_options(bench: Bench, peers: Sequence[str], again: bool) -> dict[str, Any]:
    """The tuned options of each peer, found now or kept from an earlier run."""
    file = bench.kept
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for peer in peers:
        if again or peer not in kept:
            found = bench.tune(bench.peers[peer])
            if any("rate" in tried for tried in found["tried"]):
                kept[peer] = found
                file.write_text(json.dumps(kept, indent=1))
            else:
                kept[peer] = found  # for this run alone: it may be installed for the next one
    return {peer: kept[peer] for peer in peers}


def measure(bench: Bench, peers: Sequence[str], rounds: int, untuned: bool) -> dict[str, Any]:
    """The rows of one size."""
    tuned = {} if untuned else chosen_options(bench, peers, again=False)
    outcomes, about = [], {}
    for peer in peers:
        row = (
            f"{bench.shape.name}, {bench.shape.batch} × {bench.shape.context} tokens, beside {peer}"
        )
        outcome, about[peer] = bench.beside(peer, tuned.get(peer, {}).get("best"), rounds, row)
        print(table([outcome], OURS), flush=True)
        outcomes.append(outcome)
    return {"outcomes": outcomes, "shape": vars(bench.shape), "tuned": tuned, "checked": about}


def parser() -> argparse.ArgumentParser:
    made = record.parser(__doc__.splitlines()[0])
    made.add_argument("--sizes", nargs="+", choices=SHAPES, help="(small gpt2-124m)")
    made.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    made.add_argument("--nanogpt", type=Path, help="a clone of karpathy/nanoGPT")
    made.add_argument("--book", type=Path, help="a directory that holds llms_from_scratch")
    made.add_argument("--tune", action="store_true", help="choose the peers' options, and end")
    made.add_argument("--untuned", action="store_true", help="the peers as they come, and no more")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--steps", type=int, help="of a turn (1; on a GPU 20)")
    made.add_argument("--batch", type=int, help="sequences of a step, if not the size's own")
    made.add_argument("--peak-tflops", type=float, default=0.0, help="of a device not known here")
    made.add_argument(
        "--ours", nargs="*", default=[], metavar="NAME=JSON", help="loop settings of ours"
    )
    return made


def sources_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Absolute: the workers run in another directory."""
    given = {"nanogpt": arguments.nanogpt, "book": arguments.book}
    return {system: str(path.resolve()) for system, path in given.items() if path is not None}


def _commit(directory: str) -> str:
    git = ["git", "-C", directory, "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    arguments = parser().parse_args()
    cuda = arguments.device == "cuda"
    sizes = arguments.sizes or (["gpt2-124m-gpu"] if cuda else ["small", "gpt2-124m"])
    if arguments.quick:
        sizes = ["tiny"]
    rounds = 1 if arguments.quick else arguments.rounds
    ours = {name: json.loads(value) for name, value in (o.split("=", 1) for o in arguments.ours)}
    peak = peak_flops(arguments.device, arguments.peak_tflops)
    works: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for size in sizes:
        shape = dataclasses.replace(SHAPES[size], batch=arguments.batch or SHAPES[size].batch)
        bench = Bench(
            shape=shape,
            work=prepare(arguments.work, shape),
            threads=arguments.threads,
            device=arguments.device,
            sources=sources_of(arguments),
            ours=ours,
            steps=arguments.steps or (20 if cuda else 1),
        )
        if arguments.tune:
            print(json.dumps(chosen_options(bench, arguments.peers, True), indent=1))
            continue
        found = measure(bench, arguments.peers, rounds, arguments.untuned)
        for outcome in found.pop("outcomes"):
            used = utilisation(outcome, shape, peak) if peak else {}
            works.append({**outcome.to_dict(OURS), "utilisation": used})
            print("".join(f"  {name}: {share:.1%} of the peak\n" for name, share in used.items()))
        about[size] = found
    if arguments.tune:
        return
    values = record.record(
        "benchmarks.train",
        arguments,
        rounds=rounds,
        works=works,
        sizes=about,
        device=arguments.device,
        peak_flops=peak,
    )
    if arguments.nanogpt:
        values["versions"]["nanoGPT"] = _commit(str(arguments.nanogpt))
    record.write(values, arguments.json)


if __name__ == "__main__":
    main()
