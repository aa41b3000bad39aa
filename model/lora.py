"""Low-rank adapters (Hu et al., "LoRA", 2021): a small change of a frozen network.

An adapter is a module of its own that the network's projections are given with each call. Nothing
is wrapped: the base stays as it was loaded, training moves only what is in the adapter, and rows of
one batch can have different adapters. Rows of a batch here are tokens: `x` is (…, in_features).

Where an adapter changes a network is a *site*: a projection as a whole, or some output channels of
it, such as the queries of `attention.qkv`. The network says which sites there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.architecture import Architecture
from model.dora import Layer, channel_norms, scaled
from model.errors import UsageError
from model.fused import add_low_rank, by_hand
from model.projection import Projection, linear
from model.transformer import Transformer

TARGETS = ("qkv", "q", "k", "v", "out", "gate", "up", "down")
"""What the projections of a block are called. `qkv` is the three together, which share one A."""
_DEFAULT = ("qkv", "out", "gate", "up", "down")
SCALINGS = ("rank", "sqrt-rank")
_OLD_TARGETS = {
    "attn.c_attn": "qkv",
    "attn.c_proj": "out",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
}
"""Names of before there were other families than GPT-2; still taken."""


@dataclass(frozen=True)
class LoRASettings:
    """Shape of an adapter."""

    rank: int = 16
    """Rank of each change; 0 is an adapter that changes nothing (a head alone)."""
    alpha: float = 32.0
    """The change is scaled by alpha / rank, or what `scaling` says."""
    targets: tuple[str, ...] = ()
    """Which projections of every block are changed; none is all that the network has."""
    dropout: float = 0.0
    """Of the adapter's input, in training mode only."""
    scaling: str = "rank"
    """By what alpha is divided: the rank, or `sqrt-rank`, its root, with which adapters of high
    rank learn as fast as others (Kalajdzievski, "rsLoRA", 2023)."""
    dora: bool = False
    """Whether the length of each changed output channel is learnt by itself (see `model.dora`)."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise UsageError(f"--lora-rank is {self.rank}; it must be at least 0")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--lora-dropout is {self.dropout}; it must be in [0, 1)")
        if self.scaling not in SCALINGS:
            raise UsageError(
                f"--lora-scaling is {self.scaling!r}; it must be one of {', '.join(SCALINGS)}"
            )
        targets = tuple(dict.fromkeys(_OLD_TARGETS.get(t, t) for t in self.targets))
        for target in targets:
            if target not in TARGETS:
                raise UsageError(
                    f"--lora-targets has {target!r}; it must be among {', '.join(TARGETS)}"
                )
        if "qkv" in targets and {"q", "k", "v"} & set(targets):
            raise UsageError("--lora-targets has qkv and a part of it; give one or the other")
        object.__setattr__(self, "targets", targets)

    @property
    def scale(self) -> float:
        """By which the change is multiplied; 0 where there is none."""
        return self.alpha / scaled_by(self.rank, self.scaling) if self.rank else 0.0


def scaled_by(rank: int, scaling: str) -> float:
    """What alpha is divided by."""
    return math.sqrt(rank) if scaling == "sqrt-rank" else rank


@dataclass(frozen=True)
class Site:
    """Where an adapter changes a network."""

    name: str
    """Such as `blocks.0.attention.q`."""
    path: str
    """Of the projection: `blocks.0.attention.qkv`."""
    channels: slice
    """The output channels that change; all of them have no bounds."""
    width: int
    """Output channels of the whole projection."""
    in_features: int
    out_features: int

    @property
    def key(self) -> str:
        """Its name among the adapter's parameters, which hold no dots."""
        return self.name.replace(".", "/")


def sites(config: Architecture, targets: Sequence[str]) -> list[Site]:
    """The sites of `targets` in a network, block by block, within a block as `targets` has them.

    Raises:
        UsageError: the network has no such projection.
    """
    with torch.device("meta"):
        # Blocks are alike: one tells of all, without the time that a deep network takes.
        model = Transformer(replace(config, n_layer=1))
    of_block: dict[str, Site] = {}
    for path, projection in model.projections():
        module = path.rpartition(".")[0]
        start, size = 0, projection.in_features
        for part, width in projection.parts.items():
            whole = width == projection.out_features
            channels = slice(None) if whole else slice(start, start + width)
            of_block[part] = Site(
                f"{module}.{part}", path, channels, projection.out_features, size, width
            )
            start += width
        if path.endswith(".qkv"):
            out = projection.out_features
            of_block["qkv"] = Site(path, path, slice(None), out, size, out)
    missing = [target for target in targets if target not in of_block]
    if missing:
        raise UsageError(
            f"--lora-targets has {missing[0]!r}, which this network has not; "
            f"it has {', '.join(t for t in TARGETS if t in of_block)}"
        )

    def in_block(layer: int, site: Site) -> Site:
        name, path = (
            text.replace("blocks.0.", f"blocks.{layer}.", 1) for text in (site.name, site.path)
        )
        return replace(site, name=name, path=path)

    chosen = targets or [target for target in _DEFAULT if target in of_block]
    return [in_block(i, of_block[target]) for i in range(config.n_layer) for target in chosen]


def _place(site: Site) -> tuple[str, int]:
    """Where the matrices of a site stand among an adapter's: by block, the numbers compared as
    texts, then by target."""
    _, block, _, target = site.name.split(".")
    return block, TARGETS.index(target)


class LoRA(nn.Module):
    """One adapter: for each site a pair A (rank, in) and B (out, rank).

    With `settings.dora` each site has a gain (out,), or while it learns, a magnitude (out,) in its
    place: see `model.dora`, and `learn` and `settle`.
    """

    def __init__(self, model_config: Architecture, settings: LoRASettings) -> None:
        super().__init__()
        found = sites(model_config, settings.targets)
        targets = tuple(dict.fromkeys(site.name.rpartition(".")[2] for site in found))
        self.settings = replace(settings, targets=targets)
        self.tile: int | None = None  # rows of every product, as in `model.projection.linear`
        self.scale = settings.scale
        self.sites = found if settings.rank else []
        self._of_path: dict[str, list[Site]] = {}
        for site in self.sites:
            self._of_path.setdefault(site.path, []).append(site)
        # In pairs, for a dictionary would be sorted by its keys. Seeds and the saved states of
        # optimizers depend on this order.
        self._ordered = sorted(self.sites, key=_place)
        self.a = nn.ParameterDict(
            [(s.key, torch.zeros(settings.rank, s.in_features)) for s in self._ordered]
        )
        self.b = nn.ParameterDict(
            [(s.key, torch.zeros(s.out_features, settings.rank)) for s in self._ordered]
        )
        scaled = self._ordered if settings.dora else []
        self.gain = nn.ParameterDict([(s.key, torch.zeros(s.out_features)) for s in scaled])
        self.magnitude = nn.ParameterDict()

    def init_weights(self, generator: torch.Generator) -> None:
        """A as PEFT draws it (Kaiming-uniform with a = sqrt(5)), B zero: at first no change."""
        for a in self.a.values():
            bound = 1 / math.sqrt(a.shape[1])
            nn.init.uniform_(a, -bound, bound, generator=generator)
        for b in self.b.values():
            nn.init.zeros_(b)

    def learn(self, model: Transformer) -> None:
        """Let magnitudes learn in place of gains, each as `model` and the gain have it."""
        if self.gain:
            self.magnitude, self.gain = self._exchanged(model, self.gain), nn.ParameterDict()

    def settle(self, model: Transformer) -> None:
        """Have gains in place of magnitudes, as they are with the matrices of `model`."""
        if self.magnitude:
            self.gain, self.magnitude = self._exchanged(model, self.magnitude), nn.ParameterDict()

    @torch.no_grad()
    def _exchanged(self, model: Transformer, had: nn.ParameterDict) -> nn.ParameterDict:
        made = {}
        for path, found in self._of_path.items():
            norms = self.norms(_layer(model, path))
            for site in found:
                own, norm = had[site.key], norms[site.channels]
                made[site.key] = (1 + own) * norm if had is self.gain else own / norm - 1
        return nn.ParameterDict([(site.key, made[site.key]) for site in self._ordered])

    def norms(self, layer: Layer) -> Tensor:
        """‖W + B A‖ of the output channels of `layer`, which has a site: (out,) fp32"""
        change = self.change(layer.path)
        assert change is not None
        return channel_norms(layer, *change)

    def delta(self, site: Site, x: Tensor) -> Tensor:
        """What the adapter adds to the channels of `site` for `x`, the projection's input."""
        x = F.dropout(x, self.settings.dropout, self.training)
        down = linear(x, self.a[site.key], None, self.tile)
        return linear(down, self.b[site.key], None, self.tile) * self.scale

    def sites_of(self, layer: str) -> Sequence[Site]:
        """The sites within the projection at the path `layer`."""
        return self._of_path.get(layer, ())

    def adapt(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        """`y` with this adapter added in every row: an adapter by itself adapts a whole batch."""
        y, gain = self._added(layer.path, x, y), self.gain_of(layer)
        return y if gain is None else scaled(y, gain, layer.bias)

    def _added(self, layer: str, x: Tensor, y: Tensor) -> Tensor:
        """In training all sites of the projection are one product, in place; not with dropout, of
        which each site has its own."""
        dropout = self.settings.dropout > 0 and self.training
        if by_hand(*self.a.values()) and self.tile is None and not dropout:
            change = self.change(layer)
            return y if change is None else add_low_rank(x, y, *change)
        for site in self.sites_of(layer):
            delta = self.delta(site, x)
            if site.channels == slice(None):
                y = y + delta
            else:
                start, stop = site.channels.start, site.channels.stop
                y = y.slice_scatter(y[..., start:stop] + delta, -1, start, stop)
        return y

    def change(self, layer: str) -> tuple[Tensor, Tensor] | None:
        """The change of the projection at the path `layer` as one pair, the scale multiplied in.

        Returns:
            A (rank, in) and B (out, rank), where several sites' ranks add up; None if no site is
            there
        """
        found = self.sites_of(layer)
        if not found:
            return None
        a = torch.cat([self.a[site.key] for site in found])
        rank = self.settings.rank
        b = a.new_zeros(found[0].width, len(a))
        for number, site in enumerate(found):
            own = slice(number * rank, (number + 1) * rank)
            b[site.channels, own] = self.b[site.key] * self.scale
        return a, b

    def gain_of(self, layer: Layer) -> Tensor | None:
        """The gain of each output channel of `layer`, (out,) fp32, by which what the pairs make of
        it is scaled; None where that is nothing."""
        found = self.sites_of(layer.path)
        if not (found and self.settings.dora):
            return None
        norms = self.norms(layer) if self.magnitude else None
        gain = torch.zeros(found[0].width, device=self.a[found[0].key].device)
        for site in found:
            if norms is None:
                gain[site.channels] = self.gain[site.key].float()
            else:
                gain[site.channels] = self.magnitude[site.key] / norms[site.channels] - 1
        return gain

    @torch.no_grad()
    def merge_into(self, model: Transformer) -> None:
        """Add the change to the weights of `model`, which then needs no adapter."""
        for path, found in self._of_path.items():
            layer = _layer(model, path)
            gain, weight = self.gain_of(layer), layer.weight
            for site in found:
                delta = self.b[site.key].float() @ self.a[site.key].float() * self.scale
                weight[site.channels] += delta.to(weight.dtype)
            if gain is not None:
                weight *= (1 + gain)[:, None]


def _layer(model: Transformer, path: str) -> Projection:
    layer = model.get_submodule(path)
    assert isinstance(layer, Projection)
    return layer


class AdapterRows:
    """Different adapters for different rows of a flat batch.

    Args:
        groups: the adapter of each run of neighbouring rows, with the run's rows. Rows outside
            every group get the base alone.
    """

    def __init__(self, groups: Sequence[tuple[LoRA, slice]]) -> None:
        self.groups = tuple(groups)

    def adapt(self, layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        for lora, rows in self.groups:
            for site in lora.sites_of(layer.path):
                y[rows, site.channels] += lora.delta(site, x[rows])
            gain = lora.gain_of(layer)
            if gain is not None:
                y[rows] = scaled(y[rows], gain, layer.bias)
        return y
