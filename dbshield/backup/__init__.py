"""Backups: engines that read a protected server, a repository that distrusts its own storage, and the catalogue of both."""
