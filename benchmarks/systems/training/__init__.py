"""The training loops that are compared, each behind the interface of `base.TrainingSystem`."""
