"""What stands in the cells of the tables."""

from typing import Any

from benchmarks.systems import NO_PEERS


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def ratio(work: dict[str, Any], peer: str, goal: float) -> str:
    """How many times faster ours is than a peer, beside the goal."""
    systems = dict(work["systems"])
    if peer in ("", "as they come"):
        systems = {name: of for name, of in systems.items() if not name.startswith(NO_PEERS)}
    if peer == "as they come":
        systems = {name: values for name, values in systems.items() if "sorted" not in name}
    if peer in ("", "as they come"):
        peer = max(systems, key=lambda name: systems[name]["median"], default=peer)
    found = systems.get(peer, {}).get("ours_is_times_faster")
    if found is None:
        return f"{peer or 'peers'}: no ratio"
    wanted = f" (goal {goal:g}{'' if found >= goal else ': missed'})" if goal else ""
    return f"{found:.2f} × {peer}{wanted}"
