"""What a SQL text is, as two readers see it: PostgreSQL's own grammar and sqlglot. Pure: no I/O, no clock."""
