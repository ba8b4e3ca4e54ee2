"""`make goldens`: compiles every golden anew. Read the difference before committing it."""

from __future__ import annotations

from tests.golden import FOLDER, GOLDENS, write

if __name__ == "__main__":
    for name in GOLDENS:
        write(name, FOLDER / name)
