# The tests on a machine without a GPU:
#   docker build -f docker/cpu.Dockerfile -t zarr-gpu-cpu . && docker run --rm zarr-gpu-cpu
FROM python:3.12-slim
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --editable '.[test]'
CMD ["python", "-m", "pytest", "-n", "2", "-m", "not slow"]
