# The interface of this repository; `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
FUZZ_SECONDS ?= 60
RUN_DIR ?= target/run
ARCHS ?= amd64 arm64
TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
LIBEXEC := $(DESTDIR)$(PREFIX)/libexec/ocne
SMALL_IMAGE := tests/fixtures/ock-small.oci-archive

.PHONY: help setup build agent serve builder-image run test lint bench fuzz install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the Debian packages that the tests need (quick the second time)
	@scripts/setup.sh

build: ## build the program: target/release/ocne
	$(CARGO) build --release --locked --package ocne

agent: ## build the program of builder pods, static, for amd64 and arm64: target/release/ocne-agent-ARCH
	@scripts/agent.sh

serve: ## build the server in images of ostree content, static, for ARCHS (default amd64 arm64): target/release/ocne-serve-ARCH
	@scripts/serve.sh $(ARCHS)
	@install -v -D -m 755 -t $(RELEASE) $(foreach arch,$(ARCHS),$(TARGET)/small/ocne-serve-$(arch))

builder-image: ## assemble the container image of builder pods, for ARCHS (default amd64 arm64): target/release/ocne-builder.oci-archive
	@scripts/agent.sh $(ARCHS)
	@scripts/builder-image.py $(RELEASE)/ocne-builder.oci-archive $(foreach arch,$(ARCHS),$(arch)=$(RELEASE)/ocne-agent-$(arch))

run: build ## build the program and convert the committed boot image, as an ordinary user
	@mkdir -p $(RUN_DIR)
	$(RELEASE)/ocne image create --type oci --arch amd64 --image oci-archive:$(SMALL_IMAGE) --output $(RUN_DIR)/boot.oci
	$(RELEASE)/ocne image info --file $(RUN_DIR)/boot.oci --check

test: setup ## set up, then run every test; what cannot run here says so and counts as skipped
	@scripts/test.sh

lint: ## formatting, clippy without warnings, shellcheck, and the documents' rules
	@scripts/lint.sh

bench: build ## time the program beside its peers on a 1.4 GB image, print ratios and peak memory
	@scripts/bench.sh

fuzz: ## run every fuzz target for FUZZ_SECONDS (default 60) each
	@scripts/fuzz.sh $(FUZZ_SECONDS)

install: build ## install program, agents, man pages and completions below PREFIX (default /usr/local)
	install -D -m 755 $(RELEASE)/ocne $(DESTDIR)$(PREFIX)/bin/ocne
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(RELEASE)/ocne man --dir $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(RELEASE)/ocne completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/ocne
	$(RELEASE)/ocne completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_ocne
	$(RELEASE)/ocne completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/ocne.fish
	@for arch in $(ARCHS); do \
		if scripts/agent.sh $$arch; then \
			install -v -D -m 755 $(RELEASE)/ocne-agent-$$arch $(LIBEXEC)/ocne-agent-$$arch; \
		else \
			rm -f $(LIBEXEC)/ocne-agent-$$arch; \
			echo "install: without ocne-agent-$$arch: on $$arch nodes --builder-image has to name an image with the agent in it (docs/builder-image.md)" >&2; \
		fi; \
		if scripts/serve.sh $$arch; then \
			install -v -D -m 755 $(TARGET)/small/ocne-serve-$$arch $(LIBEXEC)/ocne-serve-$$arch; \
		else \
			rm -f $(LIBEXEC)/ocne-serve-$$arch; \
			echo "install: without ocne-serve-$$arch: images of ostree content for $$arch need --base with an image that has nginx" >&2; \
		fi; \
	done

clean: ## remove what was built
	$(CARGO) clean
	rm -rf fuzz/target tests/differential/target
