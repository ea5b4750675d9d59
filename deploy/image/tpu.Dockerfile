# The server for TPUs: TensorFlow's build for them and libtpu, without TensorFlow Serving's API, whose package wants the
# other build. Written like gpu.Dockerfile; it was never built, and never ran on a TPU. From the repository's root:
#   docker build --file deploy/image/tpu.Dockerfile --tag cadenza:0.1.0-tpu .
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock deploy/image/tpu.lock ./
RUN python3 -m venv /opt/uv \
    && uv_version=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements.lock) \
    && /opt/uv/bin/pip install --no-cache-dir --no-deps "uv==${uv_version}" \
    && /opt/uv/bin/uv venv --python /usr/bin/python3 /opt/cadenza
RUN /opt/uv/bin/uv pip install --no-cache --python /opt/cadenza/bin/python --require-hashes --requirements tpu.lock
COPY pyproject.toml README.md ./
COPY proto proto
COPY server server
COPY client client
COPY model_export model_export
RUN /opt/uv/bin/uv pip install --no-cache --python /opt/cadenza/bin/python --compile-bytecode --no-deps .

FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* \
    && groupadd --gid 10001 cadenza \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cadenza \
    && install --directory --owner=10001 --group=10001 /cache /models
COPY --from=build /opt/cadenza /opt/cadenza
ENV PATH=/opt/cadenza/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1
EXPOSE 8500 8501 8502
USER 10001:10001
ENTRYPOINT ["cadenza-server"]
CMD ["--models=/models", "--cache-dir=/cache", "--health-port=8502"]
