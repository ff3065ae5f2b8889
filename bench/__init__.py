"""The speed of dbshield beside a direct connection and PgBouncer: one table from one run. The method is docs/decisions/0001."""
