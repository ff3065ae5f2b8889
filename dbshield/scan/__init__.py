"""Finds the database credentials and provider tokens that lie in a workspace, and says which of them go around the proxy."""
