# The command `evenload`, with kernels compiled for the CPU that builds the image. Built and run with buildah on Debian 12 and its
# Python 3.11 in place of python:3.11-slim; never with Docker.
#   docker build --tag evenload .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" evenload plan trace.npz --gpus 32 --slots 288 -o placement.json
# To plan inside an engine, do the same in the engine's image: pip install the wheel, set NUMBA_CACHE_DIR, run `evenload warmup`.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY --from=build /wheels /wheels
RUN python -m pip install --no-cache-dir "$(ls /wheels/*.whl)[plot,report,parquet,metrics]" && rm -r /wheels
# Kernels compile anew on another kind of CPU; anybody who runs the image may then write them here, and Matplotlib its list of fonts.
ENV NUMBA_CACHE_DIR=/var/cache/evenload MPLCONFIGDIR=/var/cache/evenload
RUN evenload warmup && chmod -R a+rwX /var/cache/evenload
RUN useradd --create-home --uid 1000 evenload
USER 1000
WORKDIR /work
ENTRYPOINT ["evenload"]
