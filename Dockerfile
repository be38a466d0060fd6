# syntax=docker/dockerfile:1

# The toolchain that the tests run with; Cargo.toml says the oldest one that will do.
ARG RUST=1.95
FROM rust:${RUST}-slim-bookworm AS build
WORKDIR /src
COPY . .
# Nothing but a C compiler is needed (libSQL is C), and the image has one. The caches live outside
# of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked -p meter \
    && install -D target/release/meter /out/meter \
    && mkdir /out/data

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
