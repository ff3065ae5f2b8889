"""PostgreSQL clusters that dbshield runs itself: the binaries, a data folder, start and stop."""
