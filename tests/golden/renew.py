"""`make goldens`: makes every golden anew. Read the difference before committing it."""

from __future__ import annotations

from tests.golden import FOLDER, GOLDENS, losses, write

if __name__ == "__main__":
    for name in GOLDENS:
        write(name, FOLDER / name)
    losses.renew()
