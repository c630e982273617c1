"""Agreement of images of scenes with semantic maps, layouts and captions; validity of a scene.

Every report has a ceiling, the same measure on held-out true renders, and a floor, the score of a
model that ignores its condition (each sample with the condition of another one).

All images are uint8 [n, H, H, 3], H = 32 or a multiple of 64 (`scene_reader.py`).
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from ldm_jax.data.scenes import SEMANTIC_NAMES
from ldm_jax.data.scenes.world import MAX_OBJECTS
from ldm_jax.errors import UserError
from ldm_jax.evaluation.scene_captions import AskedScene, parse_caption, shows_relation
from ldm_jax.evaluation.scene_objects import SeenObject, objects, objects_of
from ldm_jax.evaluation.scene_reader import Reading, read, semantic

Report = dict[str, dict[str, float]]

# Criteria of a valid scene. Nearly every true render passes each of them. All are passed by 93 % of
# 500 held-out renders of the level `full` (small objects are read with low certainty), by 30 to
# 35 % of 50:50 blends of two, by at most 3 % with noise of standard deviation 40, and by at most
# 4 % of shuffled ones.
_MIN_CERTAINTY = 0.35  # of each object
_MAX_MISPLACED = {32: 0.017, 64: 0.010}  # side -> fraction of background across the horizon
_MAX_STRAY = 0.05  # fraction of object pixels that belong to no object


def mean_iou(predicted, truth, classes: int) -> float:
    """Intersection over union of each class over the whole set, averaged over classes.

    Args:
      predicted, truth: integers of one shape.
      classes: their number; those in neither array are left out of the mean.
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
      'samples', 'ceiling' and 'floor', each with 'mean_iou' and 'pixels', the
      fraction of pixels that agree.
    """
    truth_maps = np.asarray(truth_maps)

    def score(seen, asked):
        return {
            "mean_iou": mean_iou(seen, asked, len(SEMANTIC_NAMES)),
            "pixels": float((seen == asked).mean()),
        }

    return _report(score, semantic, images, truth_maps, truth_images, truth_maps)


def box_report(images, boxes, box_labels, truth_images) -> Report:
    """How well samples follow layouts: objects of the requested classes in the requested boxes.

    Args:
      images: samples, one per layout.
      boxes: [n, M, 4], (left, top, right, bottom) in [0, 1].
      box_labels: [n, M], indices in CLASS_NAMES, -1 where there is no box.
      truth_images: the true renders of these layouts.
    Returns:
      'samples', 'ceiling' and 'floor', each with 'iou', the mean IoU of each requested box with
      the best object of its class (0 without one); 'found', the fraction of boxes with an IoU of at
      least 0.5; 'precision', the fraction of detected objects with such an IoU.
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
    return _report(_box_score, objects, images, asked, truth_images, asked)


def _box_score(found, asked):
    best, fits = [], []
    for seen, wanted in zip(found, asked, strict=True):
        overlap = np.array(
            [
                [box_iou(thing.box, box) if thing.label == label else 0.0 for thing in seen]
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
      'samples', 'ceiling' and 'floor', each with these fractions: 'objects', of the requested
      objects that are found (by shape and colour, as a multiset); 'captions', of the captions whose
      objects are all found; 'exact', of the captions with exactly these objects; 'size' and
      'material', of the objects with a specified size or material that are found with it;
      'relations', of the requested relations that hold between objects that are found.
    """
    asked = [parse_caption(str(text)) for text in captions]
    truth_asked = [parse_caption(str(text)) for text in truth_captions]
    return _report(_caption_score, objects, images, asked, truth_images, truth_asked)


def _caption_score(found: Sequence[list[SeenObject]], asked: Sequence[AskedScene]):
    found_counts, asked_counts = Counter(), Counter()
    whole, exact = [], []
    for seen, scene in zip(found, asked, strict=True):
        # Each score compares two lists as multisets.
        lists = {"objects": ([x.label for x in seen], [x.label for x in scene.objects])}
        for name in ("size", "material"):
            specified = [(x.label, getattr(x, name)) for x in scene.objects if getattr(x, name)]
            lists[name] = [(x.label, getattr(x, name)) for x in seen], specified
        for name, (have, want) in lists.items():
            found_counts[name] += (Counter(have) & Counter(want)).total()
            asked_counts[name] += len(want)
        have, want = (Counter(labels) for labels in lists["objects"])
        whole.append(want <= have)
        exact.append(want == have)
        found_counts["relations"] += sum(
            shows_relation(r, scene.objects, seen) for r in scene.relations
        )
        asked_counts["relations"] += len(scene.relations)
    shares = {name: found_counts[name] / max(asked_counts[name], 1) for name in asked_counts}
    return shares | {"captions": _mean(whole), "exact": _mean(exact)}


def validity(images) -> np.ndarray:
    """1.0 for each image that is a valid scene, 0.0 for any other: float32 [n].

    A valid scene has sky above floor with a level horizon between them, one to four objects, each
    read with certainty, and nothing else.
    """
    seen = read(images)
    side = seen.semantic.shape[1]
    misplaced, stray, least, counts = plausibility(seen)
    valid = (counts >= 1) & (counts <= MAX_OBJECTS) & (least >= _MIN_CERTAINTY)
    valid &= (misplaced <= _MAX_MISPLACED[side]) & (stray <= _MAX_STRAY)
    return valid.astype(np.float32)


def plausibility(seen: Reading):
    """The criteria of `validity`, each [n].

    Returns:
      the fraction of sky and floor pixels on the wrong side of the best horizon (1 without any);
      the fraction of object pixels that belong to no object; the lowest certainty of an object (0
      without any); the number of objects.
    """
    sky, floor = seen.semantic == 0, seen.semantic == 1
    background = (sky | floor).sum(axis=(1, 2))
    # With the horizon above row r, floor pixels before r and sky pixels from r on are misplaced.
    floor_before = np.pad(np.cumsum(floor.sum(axis=2), axis=1), ((0, 0), (1, 0)))
    sky_before = np.pad(np.cumsum(sky.sum(axis=2), axis=1), ((0, 0), (1, 0)))
    wrong = (floor_before + sky_before[:, -1:] - sky_before).min(axis=1)
    misplaced = np.where(background > 0, wrong / np.maximum(background, 1), 1.0)
    found = objects_of(seen)
    filled = (~sky & ~floor).sum(axis=(1, 2))
    kept = np.array([sum(thing.pixels for thing in things) for things in found], int)
    stray = 1.0 - kept / np.maximum(filled, 1)
    least = np.array([min((x.certainty for x in things), default=0.0) for things in found])
    return misplaced, stray, least, np.array([len(things) for things in found], int)


def _report(score, read_images: Callable, images, asked, truth_images, truth_asked) -> Report:
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
    seen = read_images(images)
    return {
        "samples": score(seen, asked),
        "ceiling": score(read_images(truth_images), truth_asked),
        "floor": score(seen, [asked[i] for i in derangement(len(asked))]),
    }


def derangement(n: int) -> np.ndarray:
    """A fixed permutation of n conditions, one random cycle, so that none keeps its place."""
    order = np.random.default_rng(0).permutation(n)
    other = np.empty(n, int)
    other[order] = np.roll(order, 1)
    return other


def _mean(values) -> float:
    return float(np.mean(values)) if len(values) else 0.0
