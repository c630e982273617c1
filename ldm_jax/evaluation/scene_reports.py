"""Agreement of samples with their conditions: semantic maps, layouts, captions; plausible scenes.

Every report has a ceiling, the same measure on held-out true renders, and a floor, which a model
reaches that ignores its condition (the samples against each other's conditions).

All images are uint8 [n, H, H, 3], H = 32 or a multiple of 64 (`scene_reader.py`).
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from ldm_jax.data.scenes import SEMANTIC_NAMES
from ldm_jax.data.scenes.world import MAX_OBJECTS
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_captions import CaptionScene, parse_caption, relation_found
from ldm_jax.evaluation.scene_objects import DetectedObject, detect_objects, objects_in
from ldm_jax.evaluation.scene_reader import Reading, read, semantic

Report = dict[str, dict[str, float]]

# Limits of a plausible scene. Nearly every true render passes each. All are passed by 93 % of 500
# held-out renders of the level full (small objects are uncertain), 30 to 35 % of 50:50 blends of
# two, at most 3 % of renders with noise of standard deviation 40, at most 4 % of shuffled ones.
_MIN_CERTAINTY = 0.35  # certainty of an object
_MAX_MISPLACED = {32: 0.017, 64: 0.010}  # of background pixels beyond the horizon, by image side
_MAX_UNASSIGNED = 0.05  # of object pixels that belong to no object


def mean_iou(predicted, truth, classes: int) -> float:
    """Intersection over union of each class over the whole set, averaged over classes.

    Args:
      predicted, truth: integers of one shape.
      classes: how many there are; those in neither array do not count.
    Raises:
      UserError: if the shapes differ or nothing is compared.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape or not truth.size:
        raise UserError(
            "mean IoU compares two maps of one shape with at least one pixel, "
            f"not {list(predicted.shape)} with {list(truth.shape)}"
        )
    pairs = np.stack([predicted.ravel(), truth.ravel()]).astype(np.int64)
    if pairs.min() < 0 or pairs.max() >= classes:
        raise UserError(f"maps of {classes} classes hold numbers from 0 to {classes - 1}")
    counts = np.bincount(pairs[0] * classes + pairs[1], minlength=classes**2)
    counts = counts.reshape(classes, classes)
    both = np.diag(counts)
    either = counts.sum(axis=0) + counts.sum(axis=1) - both
    return float((both[either > 0] / either[either > 0]).mean())


def semantic_report(images, truth_maps, truth_images) -> Report:
    """How well samples follow their semantic maps.

    Args:
      images: samples, one per map.
      truth_maps: uint8 [n, H, H], indices in SEMANTIC_NAMES.
      truth_images: the true renders of these maps.
    Returns:
      'samples', 'ceiling' and 'floor', each with 'mean_iou' and 'pixels', the fraction of
      correct pixels.
    """
    truth_maps = np.asarray(truth_maps)

    def score(seen, asked):
        return {
            "mean_iou": mean_iou(seen, asked, len(SEMANTIC_NAMES)),
            "pixels": float((seen == asked).mean()),
        }

    return _report(score, semantic, images, truth_maps, truth_images, truth_maps)


def box_report(images, boxes, box_labels, truth_images) -> Report:
    """How well samples follow layouts: objects of the asked classes in the asked boxes.

    Args:
      images: samples, one per layout.
      boxes: [n, M, 4], (left, top, right, bottom) in [0, 1].
      box_labels: [n, M], indices in CLASS_NAMES, -1 where there is no box.
      truth_images: the true renders of these layouts.
    Returns:
      'samples', 'ceiling' and 'floor', each with 'iou', of each asked box with the best object of
      its class (0 without one), averaged; 'found', the share of boxes for which it is 0.5 or more;
      'precision', the share of seen objects that fit an asked box of their class so well.
    """
    boxes, box_labels = np.asarray(boxes), np.asarray(box_labels)
    if boxes.shape != (*box_labels.shape, 4) or box_labels.ndim != 2:
        raise UserError(
            "layouts are boxes [n, M, 4] with labels [n, M], "
            f"not {list(boxes.shape)} with {list(box_labels.shape)}"
        )
    asked = [
        [(int(label), box) for label, box in zip(labels, places, strict=True) if label >= 0]
        for labels, places in zip(box_labels, boxes, strict=True)
    ]
    return _report(_box_score, detect_objects, images, asked, truth_images, asked)


def _box_score(found, asked):
    best, fits = [], []
    for seen, wanted in zip(found, asked, strict=True):
        overlap = np.array(
            [
                [box_iou(one.box, box) if one.label == label else 0.0 for one in seen]
                for label, box in wanted
            ]
        ).reshape(len(wanted), len(seen))
        best.extend(overlap.max(axis=1, initial=0.0))
        fits.extend(overlap.max(axis=0, initial=0.0) >= 0.5)
    return {
        "iou": _mean(best),
        "found": _mean(np.array(best) >= 0.5),
        "precision": _mean(fits),
    }


def box_iou(one, two) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0 where both are empty."""
    (l1, t1, r1, b1), (l2, t2, r2, b2) = one, two
    both = max(min(r1, r2) - max(l1, l2), 0.0) * max(min(b1, b2) - max(t1, t2), 0.0)
    either = (r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - both
    return float(both / either) if either > 0 else 0.0


def caption_report(images, captions, truth_images, truth_captions) -> Report:
    """How well samples follow their captions.

    Args:
      images, captions: samples, and one caption of the scenes' vocabulary for each.
      truth_images, truth_captions: held-out true renders and theirs.
    Returns:
      'samples', 'ceiling' and 'floor', each with these shares: 'objects', of the asked objects that
      are there (shape and colour; two of a kind must be two); 'captions', of the captions whose
      objects all are; 'exact', of those to which nothing was added either; 'size' and 'material',
      of the objects for which the caption says it that are there and have it; 'relations', of the
      asked relations whose objects are there and stand so.
    """
    asked = [parse_caption(str(text)) for text in captions]
    truth_asked = [parse_caption(str(text)) for text in truth_captions]
    return _report(_caption_score, detect_objects, images, asked, truth_images, truth_asked)


def _caption_score(found: Sequence[list[DetectedObject]], asked: Sequence[CaptionScene]):
    there, wanted = Counter(), Counter()
    whole, exact = [], []
    for seen, scene in zip(found, asked, strict=True):
        # What each word of the score compares: two lists, as multisets.
        lists = {"objects": ([x.label for x in seen], [x.label for x in scene.objects])}
        for name in ("size", "material"):
            said = [(x.label, getattr(x, name)) for x in scene.objects if getattr(x, name)]
            lists[name] = [(x.label, getattr(x, name)) for x in seen], said
        for name, (have, want) in lists.items():
            there[name] += (Counter(have) & Counter(want)).total()
            wanted[name] += len(want)
        have, want = (Counter(labels) for labels in lists["objects"])
        whole.append(want <= have)
        exact.append(want == have)
        there["relations"] += sum(relation_found(r, scene.objects, seen) for r in scene.relations)
        wanted["relations"] += len(scene.relations)
    shares = {name: there[name] / max(wanted[name], 1) for name in wanted}
    return shares | {"captions": _mean(whole), "exact": _mean(exact)}


def validity(images) -> np.ndarray:
    """1.0 for each image that is a plausible scene, 0.0 for any other: float32 [n].

    A plausible scene has sky above floor with a level horizon between them, one to four objects,
    each of which the reader is certain, and nothing else.
    """
    seen = read(images)
    side = seen.semantic.shape[1]
    misplaced, unassigned, least, counts = plausibility(seen)
    proper = (counts >= 1) & (counts <= MAX_OBJECTS) & (least >= _MIN_CERTAINTY)
    proper &= (misplaced <= _MAX_MISPLACED[side]) & (unassigned <= _MAX_UNASSIGNED)
    return proper.astype(np.float32)


def plausibility(seen: Reading):
    """The quantities that decide `validity`, each [n].

    Returns:
      the share of sky and floor pixels on the wrong side of the horizon that fits best (1 without
      any); the share of object pixels that belong to no object; the certainty of the least certain
      object (0 without any); the number of objects.
    """
    sky, floor = seen.semantic == 0, seen.semantic == 1
    background = (sky | floor).sum(axis=(1, 2))
    # With the horizon above row r, floor pixels before r and sky pixels from r on are misplaced.
    floor_before = np.pad(np.cumsum(floor.sum(axis=2), axis=1), ((0, 0), (1, 0)))
    sky_before = np.pad(np.cumsum(sky.sum(axis=2), axis=1), ((0, 0), (1, 0)))
    wrong = (floor_before + sky_before[:, -1:] - sky_before).min(axis=1)
    misplaced = np.where(background > 0, wrong / np.maximum(background, 1), 1.0)
    found = objects_in(seen)
    filled = (~sky & ~floor).sum(axis=(1, 2))
    kept = np.array([sum(one.pixels for one in things) for things in found], int)
    unassigned = 1.0 - kept / np.maximum(filled, 1)
    least = np.array([min((x.certainty for x in things), default=0.0) for things in found])
    return misplaced, unassigned, least, np.array([len(things) for things in found], int)


def _report(score, look: Callable, images, asked, truth_images, truth_asked) -> Report:
    """Samples, ceiling and floor of one `score(seen, asked)`; each image is read once."""
    for name, shown, conditions in (
        ("images", images, asked),
        ("true renders", truth_images, truth_asked),
    ):
        if len(shown) != len(conditions):
            raise UserError(
                f"{len(shown)} {name} cannot be compared with {len(conditions)} conditions"
            )
        if not len(shown):
            raise UserError("a report needs at least one image and one true render")
    seen = look(images)
    return {
        "samples": score(seen, asked),
        "ceiling": score(look(truth_images), truth_asked),
        "floor": score(seen, [asked[i] for i in derangement(len(asked))]),
    }


def derangement(n: int) -> np.ndarray:
    """A fixed permutation of n conditions that moves each (n > 1): one random cycle."""
    order = np.random.default_rng(0).permutation(n)
    other = np.empty(n, int)
    other[order] = np.roll(order, 1)
    return other


def _mean(values) -> float:
    return float(np.mean(values)) if len(values) else 0.0
