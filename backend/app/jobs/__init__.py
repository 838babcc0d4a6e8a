"""What became of enqueued jobs."""
