"""Downloads published files once, verifies their SHA-256 and caches them."""

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import PurePosixPath

from etils import epath
from tqdm import tqdm

from ldm_jax.errors import UserError
from ldm_jax.paths import cache_folder

_TIMEOUT = 60  # seconds without data
_CHUNK = 1 << 20  # bytes


def cached_file(url: str, sha256: str) -> epath.Path:
    """Where `download` keeps a file: $LDM_JAX_CACHE/weights (or ~/.cache/ldm_jax/weights).

    The file is in a subfolder named by the start of its hash: different files may have one name.
    """
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    return cache_folder("weights") / sha256[:12].lower() / (name or "file")


def download(url: str, sha256: str) -> epath.Path:
    """The file at `url` on this machine: from the cache, or downloaded into it with a progress bar.

    A file enters the cache only when it is complete and its SHA-256 is correct. Each call checks
    the hash again (some seconds for 4 GB), so a file may also be put there by hand.

    Args:
      url: http(s):// or file://.
      sha256: 64 hexadecimal digits.
    Raises:
      UserError: no connection, no such file, or a file with another hash.
    """
    path = cached_file(url, sha256)
    if path.exists():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise UserError(
                f"{path} is damaged: its SHA-256 is {found}, not {sha256}; delete it to "
                "download it again"
            )
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache folder {path.parent} cannot be created ({error.strerror}): set "
            "LDM_JAX_CACHE to another folder"
        ) from error
    # The process id keeps simultaneous downloads of one file apart
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        found = _fetch(url, part, path)
        if found != sha256.lower():
            raise UserError(
                f"{url} has the SHA-256 {found}, not {sha256}: it is not the published file"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(url: str, part: epath.Path, path: epath.Path) -> str:
    """Writes what is at `url` into `part`; returns its SHA-256."""
    digest = hashlib.sha256()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "ldm_jax"})
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT) as response,
            part.open("wb") as out,
            tqdm(
                total=(size := int(response.headers.get("Content-Length") or 0)) or None,
                desc=f"downloading {path.name}",
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                dynamic_ncols=True,
            ) as bar,
        ):
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
            received = out.tell()
        if received < size:
            raise ConnectionError(f"the connection ended after {received} of {size} bytes")
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no such URL
        reason = error.reason if type(error) is urllib.error.URLError else error
        raise UserError(
            f"cannot download {url} ({' '.join(str(reason).split())}); get it elsewhere and put it "
            f"at {path}"
        ) from error
    return digest.hexdigest()
