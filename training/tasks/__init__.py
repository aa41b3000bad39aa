"""What can be trained, from Python as from the command line:

    from pathlib import Path
    from training.tasks import Job, classify

    classify([Path("tickets.csv")], Path("checkpoints/scratch/base"), Job(out=Path("tickets")))

A task is one file here, with the flags of its command in `training.commands` and its loss in
`training.objectives`.
"""

from training.tasks.classify import classify
from training.tasks.dpo import dpo
from training.tasks.instruct import instruct
from training.tasks.pretrain import pretrain
from training.tasks.training import Job

__all__ = ["Job", "classify", "dpo", "instruct", "pretrain"]
