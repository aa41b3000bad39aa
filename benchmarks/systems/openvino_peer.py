"""OpenVINO GenAI (`pip install openvino-genai`), which reads a GGUF file by itself.

It is compared with nobody: of SmolLM2's file it computes something else; see benchmarks/README.md.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from benchmarks.gpt2 import Files
from benchmarks.systems.base import Sampling, System, Tokens


class OpenVINO(System):
    """Its continuous batching with paged attention, which takes prompts of different lengths; each
    greedily. Its caches of prefixes are off."""

    def __init__(self, work: Path, threads: int, *, kind: str) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.cache_size = 4  # GB
        scheduler.max_num_batched_tokens = 8192
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(Files(work).gguf(kind).resolve()),
            scheduler,
            "CPU",
            {"INFERENCE_NUM_THREADS": threads},
        )
        self.settings = {"weights": kind, "openvino-genai": openvino_genai.__version__}

    def generate(self, prompts: list[Tokens], new: int, samplings: Sequence[Sampling]) -> None:
        self._generate(prompts, new)

    def greedy(self, prompt: Tokens, new: int) -> Tokens:
        return self._generate([prompt], new)[0]

    def _generate(self, prompts: list[Tokens], new: int) -> list[Tokens]:
        config = openvino_genai.GenerationConfig(
            max_new_tokens=new, ignore_eos=True, do_sample=False
        )
        tensors = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        results = self._pipeline.generate(tensors, [config] * len(prompts))
        found = [list(result.m_generation_ids[0]) for result in results]
        assert all(len(tokens) == new for tokens in found)
        return found
