"""The online side: loads checkpoints and answers HTTP requests. Never imports `training`."""
