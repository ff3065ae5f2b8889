"""The two readers of SQL text, their agreement, and its normal form. Pure."""
