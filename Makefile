# blix: one non-recursive Makefile. `make help` lists the targets.
MODE    ?= debug
V       ?= 0
Q       := $(if $(filter 1,$(V)),,@)
PREFIX  ?= /usr/local
DESTDIR ?=
ifeq ($(origin CC),default)
CC      := gcc
endif
B       := build/$(MODE)
JOBS    ?= $(shell nproc)

PKGS    := raft libuv libcjson libmicrohttpd libcurl libxxhash smartcols libsodium gnutls
ifneq ($(filter-out help clean format,$(or $(MAKECMDGOALS),all)),)
ifneq ($(shell pkg-config --atleast-version=0.22.1 raft && echo ok),ok)
$(error libraft >= 0.22.1 is needed (found: $(or $(shell pkg-config --modversion raft 2>/dev/null),none)): run scripts/install-deps; on Debian 12 it installs libraft-dev from bookworm-backports)
endif
endif

# NDEBUG is never defined: assertions stay on in release builds.
CPPFLAGS += -D_GNU_SOURCE -Ilib -I$(B)/gen $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
WARN := -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wstrict-prototypes -Wmissing-prototypes \
	-Wold-style-definition -Wpointer-arith -Wcast-align -Wcast-qual -Wwrite-strings -Wundef -Wvla -Wformat=2 \
	-Wswitch-enum -Wimplicit-fallthrough -Wnull-dereference -Wdouble-promotion -Wdate-time -fno-common
ifneq ($(findstring clang,$(CC)),)
WARN += -Wcomma -Wassign-enum -Wconditional-uninitialized -Wunreachable-code -Wno-gnu-statement-expression -Wno-string-conversion
else
WARN += -Wlogical-op -Wduplicated-cond -Wduplicated-branches -Wjump-misses-init -Warith-conversion
endif
CFLAGS_debug   := -O0 -g3 -Werror
CFLAGS_release := -O2 -g -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fPIE
CFLAGS_strict  := $(CFLAGS_release) -Werror
CFLAGS_asan    := -O1 -g -Werror -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
CFLAGS_tsan    := -O1 -g -Werror -fsanitize=thread
CFLAGS_fuzz    := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined
LDFLAGS_release := -pie -Wl,-z,relro,-z,now
LDFLAGS_asan    := -fsanitize=address,undefined
LDFLAGS_tsan    := -fsanitize=thread
LDFLAGS_fuzz    := -fsanitize=fuzzer,address,undefined
# Places where tests let a program die (lib/sys/crash.h): never in what is released.
CPPFLAGS += $(if $(filter debug asan tsan,$(MODE)),-DBLIX_CRASH_POINTS)
CFLAGS  += -std=gnu11 $(WARN) $(CFLAGS_$(MODE))
LDFLAGS += $(LDFLAGS_$(MODE)) -Wl,--as-needed
LDLIBS  += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -lpthread


LIBSRC := $(wildcard lib/*/*.c)
PROGS  := $(patsubst cmd/%/,%,$(dir $(wildcard cmd/*/main.c)))
UNITS  := $(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c))
FUZZ   := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
SRC    := $(LIBSRC) $(wildcard cmd/*/*.c tests/*/*.c)
SCRIPT  = $(shell grep -lE -m1 '^\#!.*(bash|bats|/sh)' $$(find .ci scripts tests -type f ! -name '*.c' 2>/dev/null) /dev/null)
LIB    := $(B)/libblix.a
obj     = $(patsubst %.c,$(B)/%.o,$(1))
# What blixd looks for in ../libexec of its own binary.
HELPER := $(addprefix $(B)/libexec/,toy.elf $(filter blix-shim blix-agent microvm-status,$(PROGS)) $(notdir $(wildcard scripts/microvm)))

all: $(PROGS:%=$(B)/bin/%) $(HELPER) ## build every program into build/$(MODE)/bin

$(B)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC  $@"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(call obj,$(LIBSRC))
	@rm -f $@; ar rcs $@ $^

# blix-shim needs libc alone: static, so that it shares no pages and survives upgrades of libraries.
ifneq ($(filter debug release,$(MODE)),)
LDFLAGS_blix-shim := $(if $(filter release,$(MODE)),-static-pie,-static)
LDLIBS_blix-shim  := -lm
endif
# blix-agent runs in guests that may have no libraries at all.
LDFLAGS_blix-agent := $(if $(filter debug,$(MODE)),-static,$(if $(filter release strict,$(MODE)),-static-pie,$(LDFLAGS_$(MODE))))
LDLIBS_blix-agent  := -ljansson
# Not the whole library: it has a json_object() of its own.
PARTS_blix-agent   := $(call obj,$(addprefix lib/,$(addsuffix .c,base/alloc base/buf base/error base/frame base/parse sys/crash sys/file sys/tree_reader sys/tree_writer)))

define program
$(B)/bin/$(1): $(call obj,$(wildcard cmd/$(1)/*.c)) $(or $(PARTS_$(1)),$(LIB))
	@mkdir -p $$(@D)
	@echo "  LD  $$@"
	$$(Q)$$(CC) $$(if $$(LDFLAGS_$(1)),$$(filter-out -pie,$$(LDFLAGS)) $$(LDFLAGS_$(1)),$$(LDFLAGS)) $$^ $$(or $$(LDLIBS_$(1)),$$(LDLIBS)) -o $$@
endef
$(foreach p,$(PROGS),$(eval $(call program,$(p))))

$(B)/libexec/toy.elf: cmd/blixd/toy.S
	@mkdir -p $(@D)
	@echo "  AS  $@"
	$(Q)gcc -m32 -nostdlib -static -Wl,--build-id=none -Wl,-Ttext=0x100000 $< -o $@

$(B)/libexec/microvm: scripts/microvm
	@mkdir -p $(@D)
	@ln -sf $(abspath $<) $@

$(B)/libexec/%: $(B)/bin/%
	@mkdir -p $(@D)
	@ln -sf ../bin/$* $@

$(B)/tests/test_%: $(B)/tests/unit/test_%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD  $@"
	$(Q)$(CC) $(LDFLAGS) $(filter %.o,$^) $(LIB) $(LDLIBS) -lcmocka -o $@

# The checker of tests/chaos is tested as one of the library's modules.
CHECKER := $(wildcard tests/chaos/history.c tests/chaos/check*.c)
$(B)/tests/test_history: $(call obj,$(CHECKER))

$(B)/tests/fuzz_%: $(B)/tests/fuzz/fuzz_%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD  $@"
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# Stand-ins for nix, microvm and a runner: static, since tests start hundreds of them.
FAKE_STORES := store store-2 store-3 store-4 store-5
FAKES := $(patsubst tests/fake/%.c,$(B)/tests/fake/%,$(wildcard tests/fake/*.c))
$(B)/tests/fake/%: tests/fake/%.c tests/fake/fake.h tests/fake/guest_port.h
	@mkdir -p $(foreach s,$(FAKE_STORES),$(@D)/$(s)/bin $(@D)/$(s)/share/microvm)
	@echo "  LD  $@"
	$(Q)$(CC) -D_GNU_SOURCE -std=gnu11 -O1 $(WARN) -Werror -static $< -o $@
	@for s in $(FAKE_STORES); do ln -sf ../../runner $(@D)/$$s/bin/microvm-run; echo qemu >$(@D)/$$s/share/microvm/hypervisor; done
	@echo cloud-hypervisor >$(@D)/store-5/share/microvm/hypervisor

fakes: $(FAKES) ## build the stand-ins that tests drive instead of nix and QEMU

unit: all $(UNITS:%=$(B)/tests/%) | fakes ## run the unit tests of this MODE
	@rc=0; for t in $(filter $(B)/tests/%,$^); do $(BATSENV) timeout 300 $$t || rc=1; done; exit $$rc

# Where threads are: snapshots are encoded, and hypervisors asked, on libuv's pool.
tsan: $(B)/tests/test_consensus $(B)/tests/test_members $(B)/tests/test_node_executor $(B)/tests/test_source | all fakes ## run what has threads (MODE=tsan)
	@rc=0; for t in $^; do TSAN_OPTIONS=suppressions=$(CURDIR)/tests/tsan.supp timeout 300 $$t || rc=1; done; exit $$rc

# Each tier is a folder of *.bats; they find the programs in $BLIX_BUILD/bin and on PATH.
BATSENV = BLIX_BUILD=$(abspath $(B)) PATH=$(abspath $(B))/bin:$(abspath $(B))/libexec:$$PATH
crash cluster: $(B)/tests/crash/journal_open
cluster: $(B)/tests/cluster/certificates
cli cluster guest systemd crash chaos: all fakes
	@if ls tests/$@/*.bats >/dev/null 2>&1; then $(BATSENV) bats $(BATSFLAGS) tests/$@; else echo 1..0; fi
cli: ## run tests/cli: the real programs, bad input, installation
cluster: ## run tests/cluster: three servers, a fake microvm, kills
crash: ## run tests/crash: blixd dies at every crash point, and at random times
guest: ## run tests/guest: real nix, real QEMU, real guests
systemd: ## run tests/systemd: a host with systemd as its init (root)

$(B)/tests/crash/%: $(B)/tests/crash/%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD  $@"
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(B)/tests/cluster/%: $(B)/tests/cluster/%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD  $@"
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# One program of many files, unlike those beside other bats files.
$(B)/tests/chaos/chaos: $(call obj,$(wildcard tests/chaos/*.c)) $(LIB)
	@echo "  LD  $@"
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# blixd with a bug put into it, which the harness must find: the patched files in front of the library.
MUTANTS := $(patsubst tests/chaos/mutants/%.patch,%,$(wildcard tests/chaos/mutants/*.patch))
$(B)/mutants/%/bin/blixd: tests/chaos/mutants/%.patch tests/chaos/mutate $(call obj,$(wildcard cmd/blixd/*.c)) $(LIB)
	@echo "  LD  $@"
	$(Q)tests/chaos/mutate $< $(B)/mutants/$* $(CC) $(CPPFLAGS) $(CFLAGS)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) $(filter %.o,$^) $$(find $(B)/mutants/$* -name '*.o') $(LIB) $(LDLIBS) -o $@
chaos: $(B)/tests/chaos/chaos $(MUTANTS:%=$(B)/mutants/%/bin/blixd)
chaos: ## run tests/chaos: what clients see of a cluster that is hurt is that of one correct copy (root)

fuzz: $(FUZZ:%=$(B)/tests/%) ## replay the stored fuzz corpus (MODE=fuzz CC=clang)
	@set -e; for t in $^; do $$t -runs=0 tests/fuzz/corpus/$${t##*/fuzz_}; done

BENCHES := $(patsubst tests/bench/%.c,$(B)/bench/%,$(wildcard tests/bench/*.c))
$(B)/bench/%: $(B)/tests/bench/%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD  $@"
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
benches: all fakes $(BENCHES)

bench: ## measure release programs, write build/bench/results.json
	@$(MAKE) --no-print-directory MODE=release benches
	@BLIX_BUILD=$(abspath build/release) PATH=$(abspath build/release)/bin:$$PATH tests/bench/run

ROUNDS ?= 20
soak: ## repeat unit and cluster tests ROUNDS times; then 200 kills, every crash point, crashes during recovery, 50 runs of chaos, real guests; stops at the first failure
	@for i in $$(seq $(ROUNDS)); do echo "round $$i of $(ROUNDS)"; $(MAKE) --no-print-directory unit cluster || exit 1; done
	@$(MAKE) --no-print-directory ROUNDS=200 CRASH_TWICE=1 CRASH_BUILD=1 crash
	@$(MAKE) --no-print-directory chaos
	@$(BATSENV) bats $(BATSFLAGS) tests/soak

objects: $(call obj,$(SRC))
syntax: ## parse everything with $(CC) and this MODE's warnings, writing nothing
	@printf '%s\n' $(SRC) | xargs -P $(JOBS) -n 6 $(CC) $(CPPFLAGS) $(CFLAGS) -fsyntax-only
format: ## rewrite all C files in the one style
	clang-format -i $(wildcard */*/*.[ch])
format-check:
	@clang-format --dry-run -Werror $(wildcard */*/*.[ch])
layers: ## includes point down only, adapters never meet, only lib/node and cmd log
	@scripts/check-layers
purity: ## lib/base and lib/core reach no clock, file, random source or log
	@$(MAKE) --no-print-directory -s MODE=strict $(patsubst %.c,build/strict/%.o,$(wildcard lib/base/*.c lib/core/*.c))
	@scripts/check-purity build/strict
crashless: objects ## what is released has no crash points (MODE=strict)
	@! nm -A $(call obj,$(LIBSRC) $(wildcard cmd/*/*.c)) | grep crash_point
	@! grep -l BLIX_CRASH $(call obj,$(LIBSRC) $(wildcard cmd/*/*.c))
style: ## banned calls, heads of files, words that do not belong here
	@scripts/check-style
tidy: ## clang-tidy over every C file
	@printf '%s\n' $(SRC) | xargs -P $(JOBS) -n 3 scripts/check-tidy $(CPPFLAGS) -std=gnu11 --
cppcheck: ## cppcheck over every C file
	@scripts/check-cppcheck $(B) $(SRC)
shell: ## shellcheck over every script
	@shellcheck -x -S warning -e SC2119,SC2120 $(filter-out %.bats %.bash,$(SCRIPT))
	@shellcheck -x -S warning -e SC2119,SC2120,SC2154,SC2030,SC2031 $(filter %.bats %.bash,$(SCRIPT))
check-api: ## docs/api.md and docs/operations.md say what the code says
	@scripts/check-api
check-man: all man
	@scripts/check-man $(B)
lint: format-check layers purity style tidy cppcheck shell ## every static check

check: ## all that decides whether a change is good; last line: N passed, N failed, N skipped
	@scripts/check-all

man: $(patsubst docs/man/%.scd,$(B)/man/%,$(wildcard docs/man/*.scd)) ## format the manual pages
$(B)/man/%: docs/man/%.scd
	@mkdir -p $(@D)
	$(Q)scdoc <$< >$@

install: all man ## install into DESTDIR and PREFIX (MODE=release is what you want)
	@scripts/install/install $(B) "$(DESTDIR)" "$(PREFIX)"

clean: ## remove build/
	rm -rf build

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: all unit tsan cli cluster guest systemd crash chaos fuzz bench soak objects syntax format format-check layers purity crashless style tidy cppcheck shell fakes benches \
	check-api check-man lint check man install clean help
.SECONDARY:
-include $(shell find $(B) -name '*.d' 2>/dev/null)
