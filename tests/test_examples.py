from __future__ import annotations

import ast
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
OURS = {"bench", "crypto", "gateway", "protocol", "rest", "storage", "tests"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_only_the_client(path: Path) -> None:
    """An example uses what everyone may use: the client, and the language."""
    imported = {node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in imported if name.split(".")[0] in OURS}
    assert {name for name in ours if not name.startswith("protocol.")} == {"gateway.client"}
    assert ast.get_docstring(ast.parse(path.read_text()))
