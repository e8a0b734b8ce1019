"""Give the wheel and the editable install the same import names: ``deepstrata.<folder>``."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("ops", "pipelines", "schemas", "storage")
ROOT_FILES = {"__init__.py": "pipelines/_root.py", "py.typed": "pipelines/py.typed"}


class Layout(BuildHookInterface):  # type: ignore[type-arg]
    """Place the package's root in a wheel; link the folders for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version == "standard":
            for name, source in ROOT_FILES.items():
                build_data["force_include"][str(root / source)] = f"deepstrata/{name}"
            return
        package = root / ".pkg" / "deepstrata"
        package.mkdir(parents=True, exist_ok=True)
        for name, source in (ROOT_FILES | {folder: folder for folder in FOLDERS}).items():
            link = package / name
            link.unlink(missing_ok=True)
            link.symlink_to(Path("..", "..", source))
