"""Where things lie on this machine: the cache, data sets, and what comes with the package.

Every function looks at the environment and the disk when it is called, so a changed variable counts at once.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def home() -> Path:
    """Returns flowzoo's own folder, which may not exist yet: `$FLOWZOO_HOME`, or else the user's cache."""
    value = os.environ.get("FLOWZOO_HOME")
    if value:
        return Path(value).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("flowzoo"))


def checkout() -> Path | None:
    """Returns the root of the repository that flowzoo runs from, or None for an installed package."""
    root = _PACKAGE.parent
    return root if (root / "zoo_configs").is_dir() else None


def packaged(name: str) -> Path | None:
    """Finds a folder that comes with flowzoo.

    A wheel carries it as `flowzoo/_zoo/<name>`. An editable install does not see what the build puts into the
    wheel, therefore the checkout is looked at next.

    Args:
        name: The folder's name: `"zoo_configs"` or `"saved_models"`.

    Returns:
        The folder, or None where there is none.
    """
    root = checkout()
    candidates = [_PACKAGE / "_zoo" / name, *([root / name] if root else [])]
    return next((folder for folder in candidates if folder.is_dir()), None)


def data_dirs() -> list[Path]:
    """Lists the folders in which data sets are looked for, first the ones that count most.

    They are the entries of `$FLOWZOO_DATA` (separated as in `$PATH`), `home()/data`, and for a checkout its
    own `data/` and the `shared/data/` beside it, which several checkouts may share. Folders that do not exist
    are listed too, so that an error can say where to put a data set; the shared one only if it exists.
    """
    entries = os.environ.get("FLOWZOO_DATA", "").split(os.pathsep)
    folders = [Path(entry).expanduser() for entry in entries if entry]
    folders.append(home() / "data")
    root = checkout()
    if root:
        folders.append(root / "data")
        shared = root.parent / "shared" / "data"
        folders.extend([shared] if shared.is_dir() else [])
    return list(dict.fromkeys(folders))
