"""Draws what the bench found, as PNG and SVG.  matplotlib is an extra: `pip install 'ipsecd[plot]'`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tests.lab.sweeps import Swept

BARS = {"tcp_mbit_s": "TCP, one flow, Mbit/s", "tcp4_mbit_s": "TCP, four flows, Mbit/s",
        "packets_s": "64-byte packets/s", "rtt_p99_ms": "round trip under load, p99, ms"}
_NOT_RATES = {"kb_a_pair"}


def missing() -> str:
    """Return why nothing can be drawn, or nothing."""
    return "" if importlib.util.find_spec("matplotlib") else "--plot needs matplotlib: pip install 'ipsecd[plot]'"


def draw(base: Path, result: dict[str, dict[str, Any]], swept: dict[str, Swept]) -> list[Path]:
    """Write BASE.png and BASE.svg: bars for contenders by name, a line for each figure of a sweep."""
    import matplotlib as mpl

    mpl.use("Agg")                               # no display
    from matplotlib import pyplot

    panels = [key for key in BARS if result] + list(swept)
    columns = min(2, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure, places = pyplot.subplots(rows, columns, figsize=(7 * columns, 4 * rows), squeeze=False)
    axes = list(places.flat)
    for place, panel in zip(axes, panels, strict=False):
        if panel in swept:
            _lines(place, panel, swept[panel])
        else:
            _bars(place, BARS[panel], {name: figures[panel] for name, figures in result.items() if panel in figures})
    for place in axes[len(panels):]:
        place.set_axis_off()
    figure.tight_layout()
    files = [base.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file)
    pyplot.close(figure)
    return files


def _bars(place: Any, title: str, values: dict[str, float]) -> None:
    bars = place.barh(list(values), list(values.values()))
    place.bar_label(bars, fmt="{:,.4g}", padding=3)
    place.margins(x=0.2)
    place.invert_yaxis()
    place.set_title(title)


def _lines(place: Any, title: str, swept: Swept) -> None:
    points = [int(point) for point in swept]
    for key in (key for key in next(iter(swept.values())) if key not in _NOT_RATES):
        values = [figures[key] for figures in swept.values()]
        highest = max(values) or 1
        place.plot(points, [value / highest for value in values], marker="o", label=f"{key}, 1 = {highest:,.0f}")
    place.set_xscale("log")
    place.set_ylim(0, 1.1)
    place.set_xlabel(title)
    place.legend(fontsize="small", loc="lower right")
