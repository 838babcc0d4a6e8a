"""The reference application: copy it, keep what you need. `litestar --app app.asgi:create_app run`."""
