# docker build -t parley . && docker run -p 8000:8000 -p 8001:8001 -v parley:/data parley
# Several nodes behind a balancer: compose.yaml, docs/operations.md.

FROM python:3.13-slim AS build
COPY . /source
RUN python -m venv /opt/parley && /opt/parley/bin/pip install --no-cache-dir /source

FROM python:3.13-slim
# A number, so that an orchestrator can tell that it is not root. /files is for a volume that several nodes share.
RUN useradd --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin parley \
    && install --directory --owner=parley --group=parley --mode=0700 /data /files
COPY --from=build /opt/parley /opt/parley
ENV PATH=/opt/parley/bin:$PATH PARLEY_HTTP=0.0.0.0:8000 PARLEY_TCP=0.0.0.0:8001 PARLEY_DATA=/data
USER 10001
VOLUME /data
EXPOSE 8000 8001
# Alive, not ready: a node that waits for its database, or drains, must not be restarted for it.
HEALTHCHECK --start-period=30s --interval=10s --timeout=5s \
    CMD ["python", "-c", "import os, ssl, urllib.request; \
port = os.environ['PARLEY_HTTP'].rpartition(':')[2]; \
url = 'http' + 's' * bool(os.environ.get('PARLEY_TLS_CERT')) + '://127.0.0.1:' + port + '/health/live'; \
urllib.request.urlopen(url, timeout=4, context=ssl._create_unverified_context())"]
ENTRYPOINT ["parley"]
CMD ["serve"]
