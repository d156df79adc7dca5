"""Write the OpenAPI document, `console/openapi.json`, and the console's types from it, `console/src/api/schema.ts`.

python scripts/openapi.py            # writes both; the types need npx
python scripts/openapi.py --check    # exits 1 when one of them is not what the code makes
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from durable_agent.api.app import create_app
from durable_agent.settings import Settings

CONSOLE = Path(__file__).parents[1] / "console"
DOCUMENT = CONSOLE / "openapi.json"
TYPES = CONSOLE / "src/api/schema.ts"
# In a folder of its own: it wants an older TypeScript than the console.
GENERATOR = ("npx", "--yes", "-p", "openapi-typescript@7", "-p", "typescript@5.9", "openapi-typescript")


def render() -> str:
    """Return the document as it is committed: with the settings' defaults, and without the version, which alone would make it
    another."""
    document = create_app(Settings.model_construct()).openapi()
    document["info"].pop("version")
    return json.dumps({**document, "info": {**document["info"], "version": "0"}}, indent=1, ensure_ascii=False) + "\n"


def head(text: str) -> str:
    """Return the first line of the types that are made from a document."""
    return f"// Written by scripts/openapi.py from openapi.json {hashlib.sha256(text.encode()).hexdigest()[:16]}\n"


def main() -> int:
    """Write or check the files."""
    text = render()
    if "--check" in sys.argv:
        same = DOCUMENT.is_file() and DOCUMENT.read_text() == text
        typed = TYPES.is_file() and TYPES.read_text().startswith(head(text))
        if not (same and typed):
            print(
                f"{'console/src/api/schema.ts' if same else 'console/openapi.json'} is stale: run python scripts/openapi.py"
            )
        return int(not (same and typed))
    DOCUMENT.write_text(text)
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "schema.ts"
        subprocess.run([*GENERATOR, str(DOCUMENT), "-o", str(out)], cwd=made, check=True)
        TYPES.write_text(head(text) + out.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
