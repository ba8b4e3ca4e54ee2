"""`make goldens`: makes every golden anew. Read the difference before committing it."""

from __future__ import annotations

from tests.command_line import ROOT
from tests.golden import COMPONENTS, FOLDER, GOLDENS, REFRESHES, losses, write, write_component

if __name__ == "__main__":
    for name in (*GOLDENS, *REFRESHES):
        write(name, FOLDER / name)
    for name in COMPONENTS:
        write_component(name, ROOT / f"components/{name}/component.yaml")
    losses.renew()
