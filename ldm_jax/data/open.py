"""Opens the data that a configuration describes: its training and its held-out images."""

from collections.abc import Sequence
from dataclasses import replace

from ldm_jax.data.folder import FolderConfig, FolderSource
from ldm_jax.data.scenes import ScenesConfig, ScenesSource, render_all
from ldm_jax.data.source import ArraySource, Source, read_all, split
from ldm_jax.data.tfds import TfdsConfig, TfdsSource, split_names

DataConfig = ScenesConfig | TfdsConfig | FolderConfig


def open_sources(
    config: DataConfig, seed: int, extras: Sequence[str] = (), progress: bool = True
) -> tuple[Source, Source]:
    """The training and the validation source; the latter takes central crops.

    seed: which scenes are rendered, or which images are held out. extras: additional arrays of
    scenes, 'boxes' or 'semantic', and of folders, 'embedding'; all else is what the configuration
    names. progress: whether to show progress bars. UserError as the sources raise it.
    """
    if isinstance(config, ScenesConfig):
        train = ScenesSource(config, "train", seed, extras)
        return train, ScenesSource(config, "validation", seed, extras)
    central = replace(config, crop="centre")
    if isinstance(config, FolderConfig):
        known = {"progress": progress, "embeddings": "embedding" in extras}
        train = FolderSource(config, "train", seed, **known)
        known["unreadable"] = train.unreadable
        return train, FolderSource(central, "validation", seed, **known)
    names = split_names(config.name, config.dir)
    train = TfdsSource(config, "train")
    if held_out := next((name for name in ("validation", "test") if name in names), None):
        return train, TfdsSource(central, held_out)
    return split(train, config.validation, seed)


def into_memory(source: Source, progress: bool = True) -> Source:
    """Reads all examples into memory, where they fit and are not random; renders scenes."""
    if isinstance(source, ScenesSource):
        names = source.class_names, source.box_names, source.semantic_names
        return ArraySource(render_all(source, progress=progress), *names)
    if isinstance(source, FolderSource):  # it already keeps in memory what fits
        return source
    return read_all(source, progress)
