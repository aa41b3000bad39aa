"""What a checkpoint is made for."""

from typing import Literal, get_args

TaskName = Literal["generate", "classify", "instruct"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
