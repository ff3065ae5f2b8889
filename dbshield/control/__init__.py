"""Agents, tokens and the audit: what people administer."""
