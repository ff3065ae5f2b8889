"""The scheduler: which job is due when, one leader among many schedulers, and what became of each run."""
