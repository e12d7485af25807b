# SPDX-License-Identifier: GPL-2.0
#
# virtquilt: 'make help' lists the commands; README.md explains them.

.DEFAULT_GOAL := all
.NOTPARALLEL:
.SUFFIXES:

# The user's TREE, CONFIG, OUT, TO, KERNEL_SRC, KERNEL_TARBALL, DEBUG and
# INTERFACE reach the scripts through the environment, blanks and all.
export


##@ The two that most people need
all: ## build the patched kernel, boot the machines, print what they answer
	@scripts/check table

check: ## all gates, all machines, all tests, a share of the mutants (MUTANTS=all)
	@scripts/check all

##@ Parts of it
# check-<interface> or check-<machine>
check-%: ## check-<interface> or check-<machine>: that part alone
	@scripts/check part $*

check-dkms: ## the modules on a stock kernel, from installing to removing
	@scripts/check dkms

check-upstream: ## the pinned tree's own KVM selftests, with the stack and without
	@scripts/check upstream

check-clients: ## QEMU 5.2, 7.2, 10 and 11 migrate a device, and to each other
	@scripts/check clients

check-across: ## a guest goes from one pin's kernel to another's, and back
	@scripts/check across

vmm-check: ## which steps of a migration VMM=/path/to/program does
	@scripts/check vmm

lab-%: ## lab-<machine>: build a machine, boot it, run its tests
	@scripts/check part $*

shell-%: ## shell-<machine>: a shell on a machine
	@scripts/check shell $*

list: ## what 'make check' tries: id, pin, kind, machine, interface, seconds
	@scripts/check list

cases: ## commit to the number of cases that each test had in the last run
	@scripts/check cases

mutants: ## break the stack on purpose; a test must notice (INTERFACE=name)
	@scripts/check mutants

bench: ## what things cost, in instructions or in time
	@scripts/check bench

lint: ## patches, scripts and documents: form and style
	@scripts/check lint

bisect: ## each prefix of the series compiles what it touches
	@scripts/check bisect

##@ The stack on a tree of your own (TREE=/path/to/linux)
apply: ## copy the new files in and push the series
	@./setup stack && scripts/stack apply "$$TREE"

unapply: ## give the tree back as it was
	@./setup stack && scripts/stack unapply "$$TREE"

status: ## for each patch: applied, applies, in the tree, conflicts
	@./setup stack && scripts/stack status "$$TREE"

refresh: ## write the patches anew, from TREE's edited files if given
	@./setup stack && scripts/stack refresh "$$TREE"

export: ## the whole stack as mails for git am (OUT=folder, SIGNOFF=name, TOPIC=interface)
	@./setup stack && scripts/stack export "$$OUT" "$${TREE:-$$KERNEL_SRC}"

kernel: ## build TREE with the stack (CONFIG=file)
	@scripts/check kernel

##@ The modules on this machine's stock kernel (KERNEL=release)
dkms-install: ## build and install them, the stock ones stay beside
	@scripts/dkms install $${KERNEL:+"$$KERNEL"}

dkms-remove: ## take them off, the stock modules are back
	@scripts/dkms remove

dkms-status: ## for each module: stock, installed, loaded
	@scripts/dkms status $${KERNEL:+"$$KERNEL"}

status-page: ## write Documentation/status.md, which kernel has what
	@scripts/status-page >Documentation/status.md.new
	@mv Documentation/status.md.new Documentation/status.md

deb: ## the Debian packages: virtquilt-dkms, vfio-migration-dkms
	@scripts/check deb

##@ Housekeeping
tree: ## the pinned tree with the stack, in build/linux
	@scripts/check tree

repin: ## move the pin to another point release (TO=release)
	@scripts/check repin

clean: ## remove build/, or what BUILD= names; the cache stays
	@scripts/check clean

help: ## this list
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } \
		/^[a-z%-]+:.*## / { n = $$1; sub(/%/, "*", n); \
		printf "  make %-14s %s\n", n, $$2 }' Makefile
	@printf '\n%s\n' "Settings, as in 'make check PIN=v6.12 JOBS=4', are in Documentation/manual.md"

.PHONY: all check list cases mutants lint bisect bench apply unapply status refresh export \
	kernel tree clean help check-dkms check-upstream check-clients check-across \
	vmm-check dkms-install dkms-remove dkms-status deb status-page repin
