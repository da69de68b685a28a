"""Model packages for the tests of the audit."""

from __future__ import annotations

import json
from pathlib import Path

from monitor.settings import DEFAULT_MODEL


def another_version(folder: Path) -> Path:
    """Make a package of the shipped one's files and another version."""
    manifest = json.loads((DEFAULT_MODEL / "manifest.json").read_bytes())
    for name in manifest["files"]:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(DEFAULT_MODEL / name)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": "other"}))
    return folder
