# The console is built once, wheels are fetched by hash and our own is built once; the image takes only what the runtime needs of them.
FROM node:22-slim AS console
WORKDIR /build/console
COPY console/package.json console/package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY console ./
RUN npm run build

FROM python:3.11-slim AS wheels
WORKDIR /build
COPY requirements.lock .
RUN pip wheel --no-cache-dir --no-deps --require-hashes -r requirements.lock -w /wheels
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY alembic alembic
COPY src src
COPY --from=console /build/src/durable_agent/_console src/durable_agent/_console
RUN pip install --no-cache-dir --no-index --find-links /wheels hatchling \
 && pip wheel --no-cache-dir --no-deps --no-build-isolation . -w /wheels

FROM python:3.11-slim
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels durable-agent \
 && useradd --system --create-home --uid 10001 durable-agent \
 && install -d -o durable-agent -g durable-agent /var/lib/durable-agent/artifacts
USER durable-agent
WORKDIR /home/durable-agent
ENV PYTHONUNBUFFERED=1 DURABLE_AGENT_LOG_FORMAT=json
EXPOSE 4000
STOPSIGNAL SIGTERM
ENTRYPOINT ["durable-agent"]
CMD ["--help"]
