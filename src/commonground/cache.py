"""Where derived public things are kept between runs: embeddings, converted models, public style adapters."""

from __future__ import annotations

import os
from pathlib import Path

from commonground.errors import StorageError

VARIABLE = "COMMONGROUND_CACHE"


def cache_folder() -> Path:
    """The folder, made if need be: `COMMONGROUND_CACHE`, or the user's cache folder.

    Raises:
        StorageError: it cannot be made.
    """
    import platformdirs

    folder = Path(os.environ.get(VARIABLE) or platformdirs.user_cache_dir("commonground"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the cache folder {folder} cannot be made: {error.strerror}", hint=f"set {VARIABLE}"
        ) from error
    return folder
