# syntax=docker/dockerfile:1
# Built and run with: docker build -t floodway . && docker run -v ./floodway.yaml:/etc/floodway/floodway.yaml floodway
# It has not been built by the project's CI, which has no container engine.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package floodway

FROM debian:bookworm-slim
RUN useradd --system --no-create-home --shell /usr/sbin/nologin floodway
COPY --from=build /src/target/release/floodway /usr/local/bin/floodway
USER floodway
EXPOSE 5432 9480
ENTRYPOINT ["/usr/local/bin/floodway"]
CMD ["run"]
