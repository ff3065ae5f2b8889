"""Rules, their catalogue, and the verdict over a text. Pure."""
