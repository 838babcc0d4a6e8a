# The reference application, as docker-compose.yml runs it: one image for the web process, the worker and migrations.
FROM python:3.12-slim AS build

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY backend/litestar_tasks backend/litestar_tasks
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[app,postgres]'


FROM python:3.12-slim

RUN useradd --system --uid 10001 --home-dir /srv --no-create-home app
COPY --from=build /venv /venv
COPY backend/app /srv/app

# What the application writes lies below the working directory. A volume takes its owner from the folder it covers.
RUN install --directory --owner app /data /data/mailbox
WORKDIR /data
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/srv \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

USER app
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["uvicorn", "--factory", "app.asgi:create_app", "--host", "0.0.0.0", "--port", "8000", \
    "--timeout-graceful-shutdown", "15"]
