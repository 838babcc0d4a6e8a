"""How fast litestar-tasks is beside stock SAQ and other queues, measured side by side in one run. See README.md."""
