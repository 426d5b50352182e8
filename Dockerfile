# docker build -t chargaff . && docker run --rm -v "$PWD:/data" chargaff --help
#
# torch comes from pip's default index, on Linux with CUDA. For a small CPU image name PyTorch's CPU index (see pytorch.org):
# docker build --build-arg TORCH_INDEX=<address> -t chargaff .
FROM python:3.11-slim

ARG TORCH_INDEX=""
WORKDIR /opt/chargaff
COPY pyproject.toml constraints.txt requirements-hashed.txt README.md LICENSE ./
COPY src src
RUN python -m pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
    && python -m pip install --no-cache-dir -c constraints.txt --no-deps --require-hashes -r requirements-hashed.txt \
    && python -m pip install --no-cache-dir -c constraints.txt .

WORKDIR /data
ENTRYPOINT ["chargaff"]
