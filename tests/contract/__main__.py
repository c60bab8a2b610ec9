"""Writes docs/openapi.json and docs/api.md anew."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from api.main import create_app
from shared.settings import Settings
from tests.contract.page import page_from_document

DOCS = Path(__file__).parents[2] / "docs"


def document() -> dict[str, Any]:
    """The document of a gateway; it is the same whatever its settings, and nothing is asked of Redis."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(redis_url="redis://127.0.0.1:1/0", storage_url=f"file:{folder}", secret="s" * 32))
        return app.openapi()


if __name__ == "__main__":
    made = document()
    (DOCS / "openapi.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (DOCS / "api.md").write_text(page_from_document(made), encoding="utf-8")
