"""The folder of weights that checkpoints name by their SHA-256 and do not hold.

Such a checkpoint is small enough for a repository or a package: its card has the hash of the
weights among those of its files, and says what brings them. They are looked for beside the card,
then in this folder.
"""

import os
from pathlib import Path

VARIABLE = "PENWRIGHT_WEIGHTS"
_DEFAULT = "~/.cache/penwright"


def weights_folder() -> Path:
    """The folder that PENWRIGHT_WEIGHTS names, or one of the user's cache; it may not be there."""
    return Path(os.path.expanduser(os.environ.get(VARIABLE) or _DEFAULT))
