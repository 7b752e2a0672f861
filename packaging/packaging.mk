# make package: dist/keyvaultfs_VERSION_all.deb and dist/keyvaultfs-dev-vault_VERSION_all.deb, from what is committed. make man: the pages that the wheel brings.
# make completion: the scripts in packaging/completion, to be committed.
# make release: dist/release has all that is published.
# make rpm-check: the spec builds, rpmlint finds nothing wrong, and the .rpm has what the .deb has.

PACKAGE_TOOLS := build-essential debhelper dh-python fakeroot lintian pybuild-plugin-pyproject python3-all python3-docutils python3-hatchling
MAN ?= .build/man
RPM_TOOLS := rpm rpmlint

.PHONY: package rpm-check release man completion

man:
	@PYTHONPATH=src $(PYTHON) packaging/man/build.py $(MAN)

completion: $(STAMPS)/venv-test
	@$(PYTHON) packaging/completion/build.py

package:
	$(call need,$(PACKAGE_TOOLS))
	@rm -rf .build/package && mkdir -p .build/package/keyvaultfs dist
	@git archive HEAD | tar -x -C .build/package/keyvaultfs
	@cp -a .build/package/keyvaultfs/packaging/debian .build/package/keyvaultfs/debian
	@cd .build/package/keyvaultfs && env -u PYTHONPATH PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -us -uc -b >../build.log 2>&1 \
	  || { tail -n 40 ../build.log; exit 1; }
	@lintian --fail-on error,warning .build/package/*.changes
	@cp .build/package/*.deb dist/ && ls dist/*.deb

rpm-check: package
	$(call need,$(RPM_TOOLS))
	@python3 packaging/rpm/check.py .build/rpm .build/package/keyvaultfs*_all.deb

# All that is published, of the commit that is checked out: built twice in different surroundings, and the same bytes.
release:
	$(call need,$(PACKAGE_TOOLS) $(RPM_TOOLS))
	@python3 packaging/release.py dist/release
