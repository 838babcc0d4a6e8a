"""Background jobs: the registry, its configuration, and the tasks that belong to no domain."""
