"""Layer-wise analysis of an encoder: temporal redundancy, rank (RankMe) and probe accuracy of each layer.

    python benchmarks/recipes/explain.py benchmarks/recipes/plans/motion.yaml --encoders untrained latents

Reads encoders that run.py exported (WORK/encoders/WORLD-NAME-SEED). For every layer (0 is the patch embedding) the
tokens of the entire clip are layer-normed, as targets are. "Copied" is the fraction of their variance that copying
explains: half of a clip's time steps are predicted as the mean of the other half at the same spatial position. What
copying explains carries no information about motion. Rank is RankMe of 2,048 tokens; the probe is attentive, 400
labels, one seed of the head.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import yaml
from probe import Task, accuracy
from run import load_tasks, open_store
from show import COLOURS, GREY

import jepa
from jepa.config import compose_config, to_dataclass
from jepa.data.transforms import normalise
from jepa.models import VideoEncoder
from jepa.pretrain.config import PretrainConfig
from jepa.pretrain.diagnostics import rank_me
from jepa.pretrain.objectives.targets import latents


@torch.inference_mode()
def layers_of(encoder: VideoEncoder, task: Task, config: PretrainConfig) -> torch.Tensor:
    """Layer-normed tokens of every layer, [layers, n, N, D], float16."""
    parts, layers = [], range(encoder.config.depth + 1)
    for clip in task.video.split(64):
        tokens = latents(encoder, normalise(clip, config.data.mean, config.data.std), layers)
        parts.append(torch.stack(tokens.chunk(len(layers), dim=-1)).half())
    return torch.cat(parts, dim=1)


def copied_fraction(tokens: torch.Tensor, time_steps: int) -> float:
    """Fraction of the variance of [n, N, D] that copying from the other half of the time steps explains."""
    by_time = tokens.float().unflatten(1, (time_steps, -1))
    variance = (by_time - by_time.mean((0, 1, 2))).square().mean()
    context, target = by_time[:, 0::2].mean(1, keepdim=True), by_time[:, 1::2]
    return float(1 - (target - context).square().mean() / variance)


def main() -> None:
    """Measures, prints JSON lines, draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path)
    parser.add_argument("--work", type=Path, default=Path("recipes"))
    parser.add_argument("--encoders", nargs="+", required=True)
    parser.add_argument("--probe", action="store_true", help="also probe every layer (a minute a world)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/small_scale_levels.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = yaml.safe_load(options.plan.read_text())
    keys = [*plan["common"], "data.root=x", "out=x"]
    config = to_dataclass("pretrain", compose_config("pretrain", PretrainConfig, keys))
    time_steps = config.data.num_frames // config.model.tubelet_frames
    measures = ["copied", "rank", *(["accuracy"] if options.probe else [])]
    size = (3.7 * len(measures), 3.2 * len(plan["worlds"]))
    figure, panels = plt.subplots(len(plan["worlds"]), len(measures), figsize=size, squeeze=False)
    for line, world in zip(panels, plan["worlds"], strict=True):
        task = load_tasks(plan, world, config, open_store(plan, world, options.work), options.work)[0]
        for number, name in enumerate(options.encoders):
            folder = options.work / "encoders" / f"{world}-{name}-{options.seed}"
            if not folder.is_dir():
                print(f"left out: there is no {folder}")
                continue
            encoder = jepa.load_encoder(folder)
            rows = []
            for layer, tokens in enumerate(layers_of(encoder, task, config)):
                some = tokens[:256].flatten(0, 1)[::8].float()
                rows.append([copied_fraction(tokens[:512], time_steps), rank_me(some)])
                if options.probe:
                    known = accuracy(tokens, time_steps, task, plan["labels"][-1], ["attentive"], [0])
                    rows[-1].append(known["accuracy"])
                row = {"world": world, "encoder": name, "layer": layer}
                row |= {what: round(value, 3) for what, value in zip(measures, rows[-1], strict=True)}
                print(json.dumps(row), flush=True)
            colour = GREY if name == "untrained" else COLOURS[number % len(COLOURS)]
            for panel, values in zip(line, zip(*rows, strict=True), strict=True):
                panel.plot(
                    range(len(rows)), values, "o-", color=colour, linewidth=2, markersize=5, label=name
                )
        titles = {
            "copied": "fraction that copying explains",
            "rank": "rank",
            "accuracy": f"{task.name}: accuracy",
        }
        for panel, what in zip(line, measures, strict=True):
            panel.set_title(titles[what], loc="left", fontsize=10)
            panel.set_xlabel("layer (0: patch embedding)")
            panel.grid(color="#e1e0d9", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(world)
    panels[0][-1].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(options.out, dpi=80)


if __name__ == "__main__":
    main()
