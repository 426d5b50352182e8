# docker build -t chargaff . && docker run --rm -v "$PWD:/data" chargaff --help
FROM python:3.11-slim

WORKDIR /opt/chargaff
COPY pyproject.toml constraints.txt requirements-hashed.txt README.md LICENSE ./
COPY src src
# The CPU wheels of torch: the default index would bring several gigabytes of CUDA.
RUN python -m pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch \
    && python -m pip install --no-cache-dir -c constraints.txt --no-deps --require-hashes -r requirements-hashed.txt \
    && python -m pip install --no-cache-dir -c constraints.txt .

WORKDIR /data
ENTRYPOINT ["chargaff"]
