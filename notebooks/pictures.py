"""Pictures of what a method kept, for the notebooks."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence

import torch
from IPython.display import HTML, Image
from matplotlib.figure import Figure


def heat_map(share: torch.Tensor, needles: Sequence[tuple[int, int]], bins: int = 160) -> Image:
    """Layers down, prompt positions across: how much is kept. `share` [layers, N] is `Kept.share`'s.

    Positions are put together in `bins`, a bin showing its best kept token: single tokens would be invisible. `needles`
    are stretches of tokens [first, past the last) to point at.
    """
    layers, n = share.shape
    edges = torch.linspace(0, n, bins + 1).long().tolist()
    values = torch.stack([share[:, a : max(b, a + 1)].amax(1) for a, b in zip(edges, edges[1:], strict=False)], 1)
    figure = Figure(figsize=(8, 0.28 * layers + 1.3), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(
        values, cmap="cividis", vmin=0, vmax=1, aspect="auto", extent=(0, n, layers - 0.5, -0.5), interpolation="none"
    )
    for first, end in needles:
        ax.axvspan(first, end, ymin=1.0, ymax=1.06, color="black", clip_on=False)
        ax.annotate(
            "needle", ((first + end) / 2, -0.5), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8
        )
    ax.set(xlabel="position in the prompt", ylabel="layer")
    figure.colorbar(image, ax=ax, label="share of KV heads")
    png = io.BytesIO()
    figure.savefig(png, dpi=100)
    return Image(png.getvalue(), alt="what is kept, by layer and position")


def coloured_prompt(pieces: Sequence[str], share: torch.Tensor, fold: int = 24) -> HTML:
    """The prompt's tokens on a ground as dark as their share [N] (0 to 1) is large; long gaps are folded."""
    out, dropped = [], []

    def flush() -> None:
        if len(dropped) > fold:
            dropped[:] = ["".join(dropped[:8]), f" [… {len(dropped) - 16} tokens …] ", "".join(dropped[-8:])]
        out.append(f'<span style="opacity:.45">{html.escape("".join(dropped))}</span>')
        dropped.clear()

    for piece, value in zip(pieces, share.tolist(), strict=True):
        if value == 0:
            dropped.append(piece)
            continue
        flush()
        out.append(f'<span style="background:rgba(230,159,0,{0.2 + 0.8 * value:.2f})">{html.escape(piece)}</span>')
    flush()
    return HTML(f'<div style="white-space:pre-wrap;line-height:1.6;max-width:60em">{"".join(out)}</div>')
