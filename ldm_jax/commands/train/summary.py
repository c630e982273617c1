"""One line for people of what a run has trained: how well, how fast."""

from __future__ import annotations

from typing import Any

from ldm_jax.diffusion.step import NOISE_LEVELS

UNLIKE = 0.2  # samples that are so seldom nearer to training images than real images are bad


def summary_line(summary: dict[str, Any]) -> str:
    """What was trained, how well and how fast, in one line."""
    parts = []
    for stage in ("autoencoder", "diffusion", "classifier"):
        if not (s := summary.get(stage)):
            continue
        try:
            facts = _facts(s)
        except Exception:  # someone has edited it
            facts = ["its numbers in summary.json are damaged"]
        parts.append(f"{stage}: " + ", ".join(facts))
    return " | ".join(parts)


def _facts(s: dict[str, Any]) -> list[str]:
    """Of one stage."""
    facts = [f"from {s['from_run']}"] if "from_run" in s else []
    facts += ["none, on pixels"] if "pixels" in s else []
    facts += [f"published weights of {s['converted_from']}"] if "converted_from" in s else []
    if "steps" in s:
        facts += [f"{s['parameters'] / 1e6:.2f}M parameters", f"{s['steps']} steps"]
        if "seconds" in s:
            facts[-1] += f" in {s['seconds'] / 60:.1f} min"
            facts.append(f"{s['images_per_s']} images/s")
        facts.append(f"peak {s['peak_bytes'] / 1e6:.0f} MB")
    if "accuracy" in s:
        levels = [f"{s[f'accuracy_{level}']:.0%}" for level in NOISE_LEVELS]
        facts.append(f"{s['accuracy']:.1%} right (least to most noise {', '.join(levels)})")
    if "psnr" in s:
        same = f"; JPEG of the same size {s['jpeg_psnr']:.1f}" if "jpeg_psnr" in s else ""
        facts.append(f"held-out PSNR {s['psnr']:.1f} dB{same}")
    facts += [f"LPIPS ({key[6:]}) {s[key]:.3f}" for key in s if key.startswith("lpips_")]
    if "codebook_usage" in s:
        facts.append(f"{s['codebook_usage']:.0%} of the codes in use")
    return facts + _measured(s)


# What the first number of a report is called.
_NAMES = {
    "whole": "whole caption",
    "valid": "proper scenes",
    "iou": "box IoU",
    "mean_iou": "mean IoU",
}


def _measured(summary: dict[str, Any]) -> list[str]:
    """The first number of each report, with what it is compared to."""
    facts = [_copies(summary["nearest"])] if "nearest" in summary else []
    if report := summary.get("reader"):
        name = next(name for name in _NAMES if name in report["samples"])
        others = {"ceiling": "true renders", "reconstructed": "reconstructed", "floor": "shuffled"}
        beside = ", ".join(f"{others[o]} {report[o][name]:.1%}" for o in others if o in report)
        facts.append(f"{_NAMES[name]} {report['samples'][name]:.1%} ({beside})")
    if report := summary.get("kid"):
        parts = {"samples": "", "reconstructed": "reconstructed ", "held_out": "held-out "}
        first, *rest = (f"{said}{report[who]['mean']:.4f}" for who, said in parts.items())
        error = report["samples"]["standard_error"]
        features = f"{report['features']} features, {report['images']} images"
        facts.append(f"KID ({features}) {first} ± {error:.4f} ({', '.join(rest)})")
    if report := summary.get("restored"):
        for who, scores in report.items():
            if isinstance(scores, dict):
                numbers = [f"{scores['psnr']:.1f} dB", f"SSIM {scores['ssim']:.3f}"]
                if "lpips_squeezenet" in scores:
                    numbers.append(f"LPIPS (squeezenet) {scores['lpips_squeezenet']:.3f}")
                facts.append(f"{who.replace('_', ' ')} " + " ".join(numbers))
    return facts


def _copies(report: dict[str, Any]) -> str:
    """What the comparison of samples with training images has found."""
    if "why_not" in report:
        return f"no nearest-neighbour check ({report['why_not']})"
    nearer = f"nearer to training images than held-out ones in {report['closer']:.0%} of pairs"
    if report["passed"]:
        unlike = ": they are unlike real images yet" if report["closer"] < UNLIKE else ""
        return f"nearest-neighbour check passed (samples {nearer}{unlike})"
    return f"nearest-neighbour check FAILED: samples are {nearer}, copies are in 100%: nearest.png"
