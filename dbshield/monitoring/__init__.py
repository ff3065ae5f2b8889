"""What a monitoring is told: the metrics of this proxy and of the control database, and whether it is healthy and ready."""
