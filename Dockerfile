# syntax=docker/dockerfile:1

# The toolchain that the tests run with; Cargo.toml says the oldest one that will do. Nothing but a
# C compiler is needed besides (libSQL is C), and the image has one.
ARG RUST=1.95
FROM rust:${RUST}-slim-bookworm AS toolchain
WORKDIR /src

# The manifests, and an empty source for each target that they name. This stage runs at each change,
# and what it makes changes only with them.
FROM toolchain AS manifests
COPY . .
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN mkdir /manifests \
    && find . -name Cargo.toml -exec cp --parents -t /manifests Cargo.lock {} + \
    && echo 'fn main() {}' > /empty.rs \
    && cargo metadata --no-deps --offline --format-version 1 \
       | grep -o '"src_path":"/src/[^"]*"' | cut -d '"' -f 4 | cut -d / -f 3- \
       | xargs -I TARGET install -D -m 0644 /empty.rs /manifests/TARGET

# The dependencies: a layer of their own, which is kept until the manifests change.
FROM toolchain AS dependencies
COPY --from=manifests /manifests .
RUN cargo build --release --locked -p meter

# Without a network: what is built is in the layer before. The empty programs are newer than the
# sources, so Cargo would take them for the real ones; the last command sees that it did not.
FROM dependencies AS build
COPY . .
RUN --network=none find . -name '*.rs' -not -path './target/*' -exec touch {} + \
    && cargo build --release --locked --offline -p meter \
    && install -D target/release/meter /out/meter \
    && mkdir /out/data \
    && test -n "$(/out/meter --version)"

# Neither a shell nor a package manager: the C library and root certificates. The same Debian as
# above, so the same C library.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="meter" \
      org.opencontainers.image.description="Usage metering and billing worker: AWS bills in, exact books out" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"
COPY --from=build /out/meter /usr/local/bin/meter
# The only folder that is written to, and only when the books are a local file.
COPY --from=build --chown=65532:65532 /out/data /data
WORKDIR /data
USER 65532:65532
# Inside of a container 127.0.0.1 is nobody else's; which ports are open is said where it is run.
ENV METER_HTTP__LISTEN=0.0.0.0:9464
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["meter", "health"]
ENTRYPOINT ["meter"]
CMD ["work"]
