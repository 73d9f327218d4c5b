#!/usr/bin/env bats
# The static checks find what they are there to find: each gets a tree with one planted fault.

setup() {
	cd "$BATS_TEST_DIRNAME/../.." || return 1
	tree=$(mktemp -d)
	cp -R scripts "$tree/scripts"
	mkdir -p "$tree"/{cmd/blix,tests/unit,docs,examples,nix,.ci,lib/core,lib/http,lib/raft,lib/node}
	touch "$tree/Makefile" "$tree/README.md" "$tree/flake.nix"
	cd "$tree" || return 1
	export GIT_CEILING_DIRECTORIES=$tree/..
}

teardown() {
	rm -rf "$tree"
}

# finds CHECK TEXT: the check fails and says TEXT
finds() {
	run "scripts/check-$1" "${@:3}"
	echo "$output"
	[ "$status" -eq 1 ]
	[[ $output == *"$2"* ]]
}

# plant FILE LINE...: writes the file with a head
plant() {
	local file=$1
	shift
	printf '%s\n' '/* A planted fault. */' "$@" >"$file"
}

@test "a clean tree passes" {
	plant lib/node/a.c '#include "sys/log.h"' '#include "raft/a.h"' '#include "core/vm.h"'
	scripts/check-layers
	scripts/check-style
}

@test "layers: an adapter that includes another" {
	plant lib/http/a.c '#include "raft/a.h"'
	finds layers 'lib/http/a.c:2: lib/http may not include "raft/a.h"'
}

@test "layers: the core reaching up, a library out of its folder, a log in an adapter" {
	plant lib/core/a.c '#include "sys/file.h"'
	finds layers 'lib/core may not include "sys/file.h"'
	plant lib/core/a.c
	plant lib/http/a.c '#include <raft.h>'
	finds layers 'lib/http may not use <raft.h>'
	plant lib/http/a.c '#include "sys/log.h"'
	finds layers 'only lib/node and cmd log'
}

@test "layers: a folder nobody decided about" {
	mkdir lib/util
	plant lib/util/a.c
	finds layers 'lib/util has no row'
}

@test "purity: a clock and a variable in the core" {
	mkdir -p build/lib/{base,core}
	plant a.c '#include <time.h>' 'long f(void);' 'long f(void) { return time(0); }'
	gcc -c a.c -o build/lib/core/a.o
	finds purity 'time: not on the list' build
	plant a.c 'int f(void);' 'int f(void) { static int n; return ++n; }'
	gcc -c a.c -o build/lib/core/a.o
	finds purity 'the core keeps no global' build
	plant a.c 'int f(int n);' 'int f(int n) { return n + 1; }'
	gcc -c a.c -o build/lib/core/a.o
	scripts/check-purity build
}

@test "style: banned calls, a missing head, goto backwards, an executable bit" {
	plant lib/core/a.c 'void f(char *b) { strcpy(b, "x"); }'
	finds style 'banned call'
	echo 'int n;' >lib/core/a.c
	finds style 'begin with a comment'
	plant lib/core/a.c 'void f(int n)' '{' 'again:' '	if (n--)' '		goto again;' '}'
	finds style 'goto backwards: again'
	plant lib/core/a.c 'void f(int n)' '{' '	if (n)' '		goto done;' 'done:' '	return;' '}'
	scripts/check-style
	printf '#!/bin/bash\n' >scripts/run
	finds style 'not executable'
}

@test "check-all counts cmocka and bats results, and a skip nobody listed as a failure" {
	mkdir -p tests/cli
	touch tests/cli/a.bats
	echo 'kvm: no KVM here' >tests/skips
	cat >Makefile <<-'END'
		.RECIPEPREFIX = >
		unit:
		> @printf '[==========] 3 test(s) run.\n[  PASSED  ] 3 test(s).\n' >&2
		cli:
		> @printf '1..4\nok 1 a\nnot ok 2 b\nok 3 c # skip kvm: none\nok 4 d # skip lazy\n'; exit 1
		%:
		> @:
	END
	CHECK_ONLY="unit cli" run scripts/check-all
	echo "$output"
	[ "$status" -eq 1 ]
	[ "${lines[-1]}" = "4 passed, 2 failed, 1 skipped" ]
	sed -i "/not ok 2/s/.*/> @printf '1..1\\\\nok 1 a\\\\n'/" Makefile
	CHECK_ONLY="layers unit cli" run scripts/check-all
	[ "$status" -eq 0 ]
	[ "${lines[-1]}" = "5 passed, 0 failed, 1 skipped" ]
}
