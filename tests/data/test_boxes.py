"""Boxes: which of them an example carries."""

import numpy as np

from ldm_jax.data.boxes import MAX_BOXES, clipped_boxes, to_batch


def test_an_example_has_the_largest_boxes_that_its_crop_shows():
    width = np.linspace(0.1, 0.4, 40)[np.random.default_rng(0).permutation(40)]
    corners = np.stack([np.zeros(40), np.zeros(40), width, np.ones(40)], 1)
    outside = [[0.6, 0, 1, 1], [0.5, 0, 0.6, 1]]  # the second touches the crop and is not in it
    image = clipped_boxes([*outside, *corners], range(42))
    out = to_batch(
        [image, clipped_boxes([], []), image], [(0, 0, 0.5, 1), (0, 0, 1, 1), (0.4, 0, 1, 1)]
    )
    kept = np.sort(np.argsort(-width)[:MAX_BOXES])  # in the order of the annotations
    assert out["box_labels"][0].tolist() == (kept + 2).tolist()
    np.testing.assert_array_equal(out["boxes"][0], corners[kept].astype(np.float32))
    assert (out["box_labels"][1] == -1).all() and not out["boxes"][1].any()
    assert out["box_labels"][2, :3].tolist() == [0, 1, -1]
    assert (out["boxes"].shape, out["boxes"].dtype) == ((3, 30, 4), np.float32)
    assert (out["box_labels"].dtype, out["crop"].dtype) == (np.int32, np.float32)
    np.testing.assert_allclose(out["crop"][2], [0.4, 0, 1, 1])
    assert {k: v.shape[0] for k, v in to_batch([], []).items()} == dict.fromkeys(out, 0)
