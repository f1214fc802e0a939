# The interface of this repository; `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
FUZZ_SECONDS ?= 60
RUN_DIR ?= target/run
SMALL_IMAGE := tests/fixtures/ock-small.oci-archive

.PHONY: help setup build agent run test lint bench fuzz install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the Debian packages that the tests need (quick the second time)
	@scripts/setup.sh

build: ## build the program: target/release/ocne
	$(CARGO) build --release --locked --package ocne

agent: ## build the program of builder pods, static, for amd64 and arm64: target/release/ocne-agent-ARCH
	@scripts/agent.sh

run: build ## build the program and convert the committed boot image, as an ordinary user
	@mkdir -p $(RUN_DIR)
	target/release/ocne image create --type oci --arch amd64 --image oci-archive:$(SMALL_IMAGE) --output $(RUN_DIR)/boot.oci
	target/release/ocne image info --file $(RUN_DIR)/boot.oci --check

test: setup ## set up, then run every test; what cannot run here says so and counts as skipped
	@scripts/test.sh

lint: ## formatting, clippy without warnings, shellcheck, and the documents' rules
	@scripts/lint.sh

bench: build ## time the program beside its peers on a 1.4 GB image, print ratios and peak memory
	@scripts/bench.sh

fuzz: ## run every fuzz target for FUZZ_SECONDS (default 60) each
	@scripts/fuzz.sh $(FUZZ_SECONDS)

install: build ## install program, man pages and completions below PREFIX (default /usr/local)
	install -D -m 755 target/release/ocne $(DESTDIR)$(PREFIX)/bin/ocne
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	target/release/ocne man --dir $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	target/release/ocne completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/ocne
	target/release/ocne completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_ocne
	target/release/ocne completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/ocne.fish

clean: ## remove what was built
	$(CARGO) clean
	rm -rf fuzz/target tests/differential/target
