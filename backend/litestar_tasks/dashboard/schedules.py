"""Schedules: placeholder until merged."""
ROUTES = ()
