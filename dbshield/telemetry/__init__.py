"""What the workers of a proxy count, brought to where it can be read: shared memory, which no worker takes along when it dies."""
