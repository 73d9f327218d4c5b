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

PKGS    := raft libuv libcjson libmicrohttpd libcurl libxxhash smartcols
ifneq ($(filter-out help clean,$(or $(MAKECMDGOALS),all)),)
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
WARN += -Wcomma -Wassign-enum -Wconditional-uninitialized -Wunreachable-code -Wno-gnu-statement-expression
else
WARN += -Wlogical-op -Wduplicated-cond -Wduplicated-branches -Wjump-misses-init -Warith-conversion
endif
CFLAGS_debug   := -O0 -g3 -Werror
CFLAGS_release := -O2 -g -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fPIE
CFLAGS_asan    := -O1 -g -Werror -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
CFLAGS_tsan    := -O1 -g -Werror -fsanitize=thread
CFLAGS_fuzz    := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined
LDFLAGS_release := -pie -Wl,-z,relro,-z,now
LDFLAGS_asan    := -fsanitize=address,undefined
LDFLAGS_tsan    := -fsanitize=thread
LDFLAGS_fuzz    := -fsanitize=fuzzer,address,undefined
CFLAGS  += -std=gnu11 $(WARN) $(CFLAGS_$(MODE))
LDFLAGS += $(LDFLAGS_$(MODE)) -Wl,--as-needed
LDLIBS  += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -lpthread

LIBSRC := $(wildcard lib/*/*.c)
PROGS  := $(patsubst cmd/%/,%,$(dir $(wildcard cmd/*/main.c)))
UNITS  := $(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c))
LIB    := $(B)/libblix.a
obj     = $(patsubst %.c,$(B)/%.o,$(1))

all: $(PROGS:%=$(B)/bin/%) ## build every program into build/$(MODE)/bin

$(B)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC  $@"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(call obj,$(LIBSRC))
	@rm -f $@; ar rcs $@ $^

define program
$(B)/bin/$(1): $(call obj,$(wildcard cmd/$(1)/*.c)) $(LIB)
	@mkdir -p $$(@D)
	@echo "  LD  $$@"
	$$(Q)$$(CC) $$(LDFLAGS) $$^ $$(LDLIBS) -o $$@
endef
$(foreach p,$(PROGS),$(eval $(call program,$(p))))

$(B)/tests/%: $(B)/tests/unit/%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LD  $@"
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

unit: $(UNITS:%=$(B)/tests/%) ## run the unit tests of this MODE
	@set -e; for t in $^; do $$t; done

clean: ## remove build/
	rm -rf build

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: all unit clean help
.SECONDARY:
-include $(shell find build/$(MODE) -name '*.d' 2>/dev/null)
