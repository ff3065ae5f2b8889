"""The guard inside a protected database, and the doctor that looks at one."""
