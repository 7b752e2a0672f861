# Every job of CI is one target that runs on a laptop. `make demo` and `make test` install what they need.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BASE_PYTHON ?= python3
VENV        ?= .venv
PYTHON      := $(VENV)/bin/python
SUDO        := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT         := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq
STAMPS      := .build/stamps

FUSE_PACKAGES := fuse3 libfuse3-dev pkg-config gcc python3-dev python3-venv
TEST_PACKAGES := $(FUSE_PACKAGES) inotify-tools nginx-light openssl rsync util-linux nftables iproute2 zsh fish prometheus prometheus-node-exporter
# What reads credential files: the readers of tests/support/readers_of_files.py and of tests/mount/test_programs.py.
TEST_PACKAGES += curl libpq5 mariadb-client mariadb-server-core default-jdk-headless systemd postgresql haproxy openssh-client gcc-multilib e2fsprogs attr entr plocate
BOOT_PACKAGES := debootstrap systemd-container
DEBIAN_PACKAGES := python3-pyfuse3 python3-trio python3-requests python3-cryptography python3-jinja2
# The embedded vault's.
DEBIAN_PACKAGES += python3-hypercorn python3-starlette python3-jwt python3-trustme

# $(call need,PACKAGES): install those that are missing, and say so.
define need
@missing=""; for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
if [ -n "$$missing" ]; then echo "installing:$$missing"; $(APT) update && $(APT) install -y --no-install-recommends $$missing >/dev/null; fi
endef

.PHONY: help demo test lint types unit slow mount sdk debian-12 debian-13 chroot boot release-upgrade upgrade-check ci clean needs-fuse needs-test

help:
	@echo "make demo       an embedded vault, mounted; KEEP=1 leaves it mounted until Ctrl-C"
	@echo "make test       lint, types, and the whole suite, with the newest packages and with Debian 12's"
	@echo "make lint types unit slow mount sdk debian-12 package rpm-check boot bench clean"

needs-fuse:
	$(call need,$(FUSE_PACKAGES))

needs-test:
	$(call need,$(TEST_PACKAGES))

$(STAMPS)/venv: pyproject.toml | needs-fuse
	@mkdir -p $(@D)
	@echo "making $(VENV)"
	@[ -x $(PYTHON) ] || $(BASE_PYTHON) -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[certificates,dev-vault,templates]'
	@touch $@

$(STAMPS)/venv-test: pyproject.toml $(STAMPS)/venv | needs-test
	@echo "adding the test tools to $(VENV)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@

demo: $(STAMPS)/venv
	@$(PYTHON) docs/demo.py

# Four lanes, two at a time: most tests wait more than they compute. The longest begins first, and what is slow runs in
# it alone. Each lane's lines come together when it ends. Root gives each a mount namespace: a test that makes one copies
# the mounts of all others that it sees, and a file system ends only when its last copy goes. Without root there is no
# such namespace, and one lane runs after the other.
APART := $(if $(SUDO),,unshare --mount --propagation private)
test: $(STAMPS)/venv-test $(STAMPS)/venv-debian package
	@$(MAKE) --no-print-directory -j$(if $(SUDO),1,2) --output-sync=recurse lane-newest lane-debian-12 lane-debian-13 lane-machines

lane-newest:
	@$(APART) $(MAKE) --no-print-directory -j1 lint types unit slow sdk mount
lane-debian-12:
	@$(APART) $(MAKE) --no-print-directory -j1 debian-12
lane-debian-13:
	@$(APART) $(MAKE) --no-print-directory -j1 debian-13
lane-machines:
	@$(APART) $(MAKE) --no-print-directory -j1 rpm-check boot boot-trixie release-upgrade

lint: $(STAMPS)/venv-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(STAMPS)/venv-test
	$(VENV)/bin/mypy

unit: $(STAMPS)/venv-test
	$(PYTHON) -m pytest tests/unit -m 'not slow' -n auto --maxprocesses=4

slow: $(STAMPS)/venv-test
	$(PYTHON) -m pytest tests/unit -m slow

sdk: $(STAMPS)/venv-test
	$(PYTHON) -m pytest tests/sdk

mount: $(STAMPS)/venv-test
	$(PYTHON) -m pytest tests/mount

# Debian 12's own pyfuse3, trio and requests; the test tools come from the index, since apt's are too old.
DEBIAN_VENV   := .venv-debian
DEBIAN_PYTHON := $(DEBIAN_VENV)/bin/python

$(STAMPS)/venv-debian: pyproject.toml | needs-test
	$(call need,$(DEBIAN_PACKAGES))
	@mkdir -p $(@D)
	@echo "making $(DEBIAN_VENV) over the system's packages"
	@[ -x $(DEBIAN_PYTHON) ] || /usr/bin/python3 -m venv --system-site-packages $(DEBIAN_VENV)
	@$(DEBIAN_PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[dev-vault]' 'hypothesis>=6.85' 'pytest>=8' 'pyyaml>=6' \
	  'docutils>=0.19' 'hatchling>=1.12' 'pytest-socket>=0.7' 'pytest-timeout>=2.2' 'pytest-trio>=0.8' 'watchdog>=2.2' \
	  'shtab>=1.13,<1.14'
	@$(DEBIAN_PYTHON) -c 'import pyfuse3, trio, requests, hypercorn, starlette, jwt as j, jinja2; assert all("dist-packages" in m.__file__ for m in (pyfuse3, trio, requests, hypercorn, starlette, j, jinja2))'
	@touch $@

debian-12: $(STAMPS)/venv-debian
	$(DEBIAN_PYTHON) -m pytest tests/unit tests/mount -m 'not slow'

# Another release, with all that it has itself, in a chroot. `make chroot SUITE=forky ARGS='tests/unit -k rotation'` too.
CHROOT_TESTS := python3-pytest python3-pytest-trio python3-pytest-timeout python3-pytest-socket python3-hypothesis \
                python3-hypercorn python3-starlette python3-trustme python3-docutils python3-hatchling python3-editables python3-pip \
                python3-yaml python3-watchdog ca-certificates git procps sudo
ARGS ?= tests/unit tests/mount -m 'not slow'

debian-13: override SUITE = trixie
debian-13 chroot: $(STAMPS)/venv-test
	$(call need,$(BOOT_PACKAGES))
	$(SUDO) $(PYTHON) -m tests.support.chroot $(SUITE) $(TEST_PACKAGES) $(DEBIAN_PACKAGES) $(CHROOT_TESTS) -- -p no:cacheprovider $(ARGS)

# A line for each step. The machines' root is made once, in the folder for temporary files. SUITE: bookworm, or trixie, …
BOOT_TEST := -m pytest --verbose --capture=no -p no:cacheprovider tests/boot
boot: package $(STAMPS)/venv-test
	$(call need,$(BOOT_PACKAGES))
	$(SUDO) env SUITE=$(SUITE) $(PYTHON) $(BOOT_TEST) -m 'not slow'

boot-trixie:
	$(call need,$(BOOT_PACKAGES))
	$(SUDO) env SUITE=trixie $(PYTHON) $(BOOT_TEST) -m 'not slow' -k 'test_01 or test_02 or test_03 or test_08 or test_09 or test_10'

# A machine goes from Debian 12 to 13 under a reader.
release-upgrade: package $(STAMPS)/venv-test
	$(call need,$(BOOT_PACKAGES))
	$(SUDO) env SUITE=$(SUITE) $(PYTHON) $(BOOT_TEST) -m slow

# The package of an earlier revision, upgraded to this one's under a reader: make upgrade-check BASE=v0.1.0
upgrade-check: package $(STAMPS)/venv-test
	$(call need,$(BOOT_PACKAGES))
	@rm -rf .build/base && mkdir -p .build/base/keyvaultfs
	@git archive $(BASE) | tar -x -C .build/base/keyvaultfs && cp -a .build/base/keyvaultfs/packaging/debian .build/base/keyvaultfs/
	@cd .build/base/keyvaultfs && env -u PYTHONPATH PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -us -uc -b >../build.log 2>&1 \
	  || { tail -n 40 ../build.log; exit 1; }
	$(SUDO) env SUITE=$(SUITE) OLDER_PACKAGE=$$(ls $(CURDIR)/.build/base/keyvaultfs_*_all.deb) $(PYTHON) $(BOOT_TEST) -k apt_upgrades

ci: test

clean:
	rm -rf .build $(VENV) $(DEBIAN_VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

-include packaging/packaging.mk
-include benchmarks/bench.mk
