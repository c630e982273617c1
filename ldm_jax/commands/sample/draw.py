"""The plain job: images for conditions, as a grid, an animation or single files."""

from __future__ import annotations

import numpy as np

from ldm_jax import plots
from ldm_jax.commands.sample.command import SampleCommand
from ldm_jax.commands.sample.outputs import output_kind
from ldm_jax.commands.sample.plan import Plan, Request, Result


def plan_draw(command: SampleCommand, request: Request) -> Plan:
    """Images for each condition, with its label under them."""
    estimates, labels, n = command.trajectory, request.all_labels, request.images_per_prompt
    animated = output_kind(command.out) == "animation"
    columns = min(8, n if len(labels) > n else 8, len(labels))

    def result(images: np.ndarray) -> Result:
        text = f"{len(images)} images"
        images = request.composite(images)
        if animated:
            grids = [plots.grid(step, columns) for step in images.swapaxes(0, 1)]
            return Result(images[:, -1], np.stack(grids), f"{text}, step by step,")
        if estimates:
            return with_estimates(images, labels, estimates)
        conditions = request.conditions
        shown = None if conditions is None else request.model.condition.as_image(conditions)
        if shown is None:
            groups = images.reshape(-1, n, *images.shape[1:])
            return Result(images, plots.labelled_groups(groups, request.labels), text)
        shown, cells = plots.alike([shown, images])
        rows = cells.reshape(-1, n, *cells.shape[1:])
        parts = [
            one for condition, row in zip(shown, rows, strict=True) for one in (condition, *row)
        ]
        return Result(images, plots.grid(np.stack(parts), n + 1), text)

    trajectory = animated or bool(estimates)
    return Plan(request.inputs, result, trajectory, streams=not trajectory)


def with_estimates(images: np.ndarray, labels: list[str], most: int) -> Result:
    """A row for each image `[n, S, H, W, C]`: estimates of z_0, evenly chosen, to the last."""
    chosen = np.linspace(0, images.shape[1] - 1, min(most, images.shape[1]))
    shown = images[:, np.rint(chosen).astype(int)]
    grid = plots.labelled_groups(shown, labels, len(chosen))
    return Result(images[:, -1], grid, f"{len(images)} images and {len(chosen)} estimates of each")
