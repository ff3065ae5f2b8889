"""What agents may run: rules, their catalogue, and the judge that applies them. Pure: no I/O, no clock."""
