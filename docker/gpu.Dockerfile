# zarr_gpu with the libraries for an NVIDIA GPU, and the tests that need one:
#   docker build -f docker/gpu.Dockerfile -t zarr-gpu-gpu .
#   docker run --rm --gpus all zarr-gpu-gpu                             # what the card can do
#   docker run --rm --gpus all zarr-gpu-gpu python -m pytest tests/device --runtime=cuda
#   docker run --rm --gpus all -v "$PWD/results:/src/benchmarks/results" zarr-gpu-gpu \
#       python -m benchmarks.device
#
# A plain Python image is enough: the wheels bring CUDA's runtime, its compiler and nvCOMP. The
# driver is the host's; `--gpus all` (NVIDIA Container Toolkit) puts its library into the container.
# For CUDA 13 it has to be 580 or newer; for older ones build with --build-arg CUDA=cu12.
FROM python:3.12-slim
ARG CUDA=cu13
# The kernels' tests also compile them for the CPU.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Not the extra `test`: it has the wheels for CUDA 13, and two versions of CuPy disturb each other.
RUN pip install --no-cache-dir --editable ".[${CUDA},ml,snappy,pcodec,msgpack,speed]" \
    pytest pytest-xdist hypothesis
# Compiled kernels; mount a volume here to keep them.
ENV ZARR_GPU_CACHE_DIR=/var/cache/zarr_gpu
# What the container toolkit lets in of the driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["zarr-gpu", "device"]
