# A server with models in it, their weights packed and kernels compiled ahead. Built from a folder of models,
# NAME/VERSION each, on a machine with the processor that will serve:
#   docker build --file deploy/image/prepared.Dockerfile --build-arg SERVER=cadenza:0.1.0-cpu --tag smollm:1-cpu models
ARG SERVER=cadenza:0.1.0-cpu

FROM ${SERVER}
COPY --chown=10001:10001 . /models
RUN ["cadenza-server", "--models=/models", "--cache-dir=/cache", "--load-only"]
