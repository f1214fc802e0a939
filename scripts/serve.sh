#!/usr/bin/env bash
# Builds the server in images of ostree content as one static file for each architecture: serve.sh [ARCH…], by default amd64 and arm64
#   AGENT_PROFILE (default small)
export STATIC_LIBC=musl AGENT_PROFILE=${AGENT_PROFILE:-small}
exec "$(dirname "$0")/static.sh" ocne-serve "$@"
