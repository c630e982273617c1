"""Copies of training images among the held-out ones, by which a model looks better than it is."""

import hashlib
from collections import defaultdict

from ldm_jax.data.folder import FolderSource

MOST_BYTES = 2e9  # that are read to compare files of equal size


def copies(train: FolderSource, held_out: FolderSource) -> dict[str, str]:
    """Held-out file -> a training file with the same bytes, whatever both are called.

    Only files of equal size are read, and none where these are too many: {} then.
    """
    by_size = defaultdict(list)
    for name, size in train.files.items():
        by_size[size].append(name)
    alike = {name: by_size[size] for name, size in held_out.files.items() if size in by_size}
    total = sum(held_out.files[name] * (1 + len(others)) for name, others in alike.items())
    if total > MOST_BYTES:
        return {}
    found = {}
    for name, others in alike.items():
        own = _digest(held_out, name)
        same = (other for other in others if _digest(train, other) == own)
        if (other := next(same, None)) is not None:
            found[name] = other
    return found


def copies_notice(found: dict[str, str], held_out: int) -> str:
    """What to say of them; '' where there are none."""
    if not found:
        return ""
    shown = [f"{name} of {other}" for name, other in list(found.items())[:3]]
    more = ", ..." if len(found) > len(shown) else ""
    return (
        f"{len(found)} of {held_out} held-out images are copies of training images "
        f"({', '.join(shown)}{more}): numbers of held-out images will be too good; remove the "
        "copies to trust them"
    )


def _digest(source: FolderSource, name: str) -> bytes:
    return hashlib.blake2b((source.root / name).read_bytes(), digest_size=16).digest()
