#!/usr/bin/env bash
# Builds the program of builder pods as one static file for each architecture: agent.sh [ARCH…], by default amd64 and arm64
#   AGENT_PROFILE (default release)
exec "$(dirname "$0")/static.sh" ocne-agent "$@"
