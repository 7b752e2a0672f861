# make bench [QUICK=1] [GROUPS="warm cold"]: measures, and writes benchmarks/RESULTS.md and a plot per group.
# make bench AGAINST=REVISION: this tree beside an earlier revision, printed.
# Missing peers (bindfs, rclone, curl, nginx) are installed by apt when run as root, and named as missing else.

.PHONY: bench
PYTHON ?= .venv/bin/python

bench: $(if $(STAMPS),$(STAMPS)/venv-test)
	@PYTHONPATH=src:. $(PYTHON) -m benchmarks$(if $(AGAINST),.against $(AGAINST),$(if $(filter-out 0,$(QUICK)), --quick)$(if $(GROUPS), --groups $(GROUPS)))
