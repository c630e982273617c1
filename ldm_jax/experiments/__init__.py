"""The experiments: one function each, which returns everything that decides a run.

The first line of a function's docstring is what `python train.py --help` says of it.
"""

from collections.abc import Callable

from ldm_jax.experiments import (
    class_conditional,
    emoji,
    first_stages,
    image_to_image,
    scene_tasks,
    scenes,
    text_and_layout,
    unconditional,
)
from ldm_jax.experiments.config import Experiment
from ldm_jax.experiments.own_data import folder, tfds

Experiments = dict[str, Callable[[], Experiment]]

# The embedded scenes: all tasks of the paper, on a laptop; one for a GPU; one just to see it run.
SCENES: Experiments = {
    "scenes": scenes.scenes,
    "scenes-64": scenes.scenes_64,
    "scenes-64-f4": scene_tasks.scenes_64_f4,
    "scenes-text": scene_tasks.scenes_text,
    "scenes-class": scene_tasks.scenes_class,
    "scenes-unconditional": scene_tasks.scenes_unconditional,
    "scenes-layout": scene_tasks.scenes_layout,
    "scenes-semantic": scene_tasks.scenes_semantic,
    "scenes-inpainting": scene_tasks.scenes_inpainting,
    "scenes-super-resolution": scene_tasks.scenes_super_resolution,
    "scenes-large": scenes.scenes_large,
    "smoke": scenes.smoke,
}

# Table 8.
FIRST_STAGES: Experiments = {
    "kl-f2": first_stages.kl_f2,
    "kl-f4": first_stages.kl_f4,
    "kl-f8": first_stages.kl_f8,
    "kl-f16": first_stages.kl_f16,
    "kl-f16-c8": first_stages.kl_f16_c8,
    "kl-f32": first_stages.kl_f32,
    "kl-f32-c16": first_stages.kl_f32_c16,
    "vq-f2": first_stages.vq_f2,
    "vq-f2-n64": first_stages.vq_f2_n64,
    "vq-f4": first_stages.vq_f4,
    "vq-f4-noattn": first_stages.vq_f4_noattn,
    "vq-f4-n256": first_stages.vq_f4_n256,
    "vq-f8": first_stages.vq_f8,
    "vq-f8-n256": first_stages.vq_f8_n256,
    "vq-f16": first_stages.vq_f16,
    "vq-f32": first_stages.vq_f32,
    "vq-f32-c32": first_stages.vq_f32_c32,
}

# Of these train.py trains the first stage alone unless told otherwise.
TRAINED_ALONE = {"scenes-64-f4", *FIRST_STAGES}

# The diffusion models whose weights were published, under the names of their files.
PUBLISHED: Experiments = {
    "celeba256": unconditional.celeba256,
    "ffhq256": unconditional.ffhq256,
    "lsun_beds256": unconditional.lsun_beds256,
    "lsun_churches256": unconditional.lsun_churches256,
    "cin256": class_conditional.cin256,
    "cin256-v2": class_conditional.cin256_v2,
    "text2img256": text_and_layout.text2img256,
    "txt2img-1p4B": text_and_layout.txt2img_1p4B,
    "layout2img-openimages256": text_and_layout.layout2img_openimages256,
    "semantic_synthesis256": image_to_image.semantic_synthesis256,
    "semantic_synthesis512": image_to_image.semantic_synthesis512,
    "bsr_sr": image_to_image.bsr_sr,
    "inpainting_big": image_to_image.inpainting_big,
    "rdm768x768": text_and_layout.rdm768x768,
    "stable-diffusion-v1": text_and_layout.stable_diffusion_v1,
}

# Further rows of the paper's tables.
UNPUBLISHED: Experiments = {
    "cin256-f1": class_conditional.cin256_f1,
    "cin256-f2": class_conditional.cin256_f2,
    "cin256-f4": class_conditional.cin256_f4,
    "cin256-f8": class_conditional.cin256_f8,
    "cin256-f16": class_conditional.cin256_f16,
    "cin256-f32": class_conditional.cin256_f32,
    "celeba256-f1": unconditional.celeba256_f1,
    "celeba256-f2": unconditional.celeba256_f2,
    "celeba256-f4": unconditional.celeba256_f4,
    "celeba256-f8": unconditional.celeba256_f8,
    "celeba256-f16": unconditional.celeba256_f16,
    "celeba256-f32": unconditional.celeba256_f32,
    "layout2img-coco256": text_and_layout.layout2img_coco256,
    "layout2img-coco256-f4": text_and_layout.layout2img_coco256_f4,
    "sr-imagenet256": image_to_image.sr_imagenet256,
    "inpainting-f1": image_to_image.inpainting_f1,
    "inpainting-kl-f4": image_to_image.inpainting_kl_f4,
    "inpainting-vq-f4": image_to_image.inpainting_vq_f4,
    "inpainting-vq-f4-noattn": image_to_image.inpainting_vq_f4_noattn,
}

EXPERIMENTS: Experiments = {
    **SCENES,
    "tfds": tfds,
    "folder": folder,
    "emoji-64": emoji.emoji_64,
    **FIRST_STAGES,
    **PUBLISHED,
    **UNPUBLISHED,
}
