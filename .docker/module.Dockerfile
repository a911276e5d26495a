# The image of one process: the dependencies of the modules that it hosts, and of no other. `docker-compose.yml` gives
# the arguments; by hand:
#
#   docker build -f .docker/module.Dockerfile --build-arg SYNC='--package fissile --extra kafka --extra gateway' .
#
# It needs no BuildKit.

FROM debian:12-slim AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/log/*

# --- the folders of the workspace without their code: dependencies are installed anew only when they change -----------
FROM base AS manifests
COPY modules /app/modules
RUN find /app/modules -type f ! -name pyproject.toml -delete

# --- the virtual environment -----------------------------------------------------------------------------------------
FROM base AS build
ARG UV_VERSION=0.13.9
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"
ENV UV_PYTHON=/usr/bin/python3 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
WORKDIR /app
COPY pyproject.toml uv.lock ./
COPY --from=manifests /app/modules modules/
# Which packages of the workspace, and which of their extras.
ARG SYNC="--package fissile --extra kafka"
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-install-workspace ${SYNC}
COPY README.md CHANGELOG.md LICENSE ./
COPY runtime runtime/
COPY gateway/fissile_gateway gateway/fissile_gateway/
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-editable ${SYNC}

# --- the process -----------------------------------------------------------------------------------------------------
FROM base
# What it needs from the distribution, such as the interpreters that a code executor offers. No program may make its user
# somebody else. (Java's package does not install without a folder for manuals, which the slim image lacks.)
ARG DEBIAN_PACKAGES=""
RUN if [ -n "${DEBIAN_PACKAGES}" ]; then \
        mkdir -p /usr/share/man/man1 \
        && apt-get update \
        && apt-get install --yes --no-install-recommends ${DEBIAN_PACKAGES} \
        && rm -rf /var/lib/apt/lists/* /var/log/*; \
    fi \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} +
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fissile
WORKDIR /app
# Modules import the contracts of others, so all sources are here; nothing in /app belongs to the user.
COPY pyproject.toml ./
COPY --from=build /app/.venv .venv/
COPY gateway/__init__.py gateway/
COPY gateway/app gateway/app/
COPY modules modules/
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["fissile", "healthcheck"]
# The exec form, so that SIGTERM reaches the process, which drains then. Where the placement has several processes, one
# has to be named: `fissile run executor`.
CMD ["fissile", "run"]
