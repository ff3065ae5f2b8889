"""All that the doctor looks at, put together from the guard, the control database, the backups and the schedule."""
