"""The application's own database: the only room that knows SQLAlchemy."""
