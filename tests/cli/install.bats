#!/usr/bin/env bats
# `make install` and `uninstall` under a DESTDIR of their own, and a build against an old libraft.

setup() {
	cd "$BATS_TEST_DIRNAME/../.." || return 1
	: "${BLIX_BUILD:=$PWD/build/debug}"
	dest=$(mktemp -d)
	mode=${BLIX_BUILD##*/}
	unset MAKEFLAGS MFLAGS MAKELEVEL
	runner=
	prefix=/usr/local
}

teardown() {
	[ -z "$runner" ] || kill "$runner" 2>/dev/null || true
	rm -rf "$dest"
}

install_here() { make -s MODE="$mode" install DESTDIR="$dest" PREFIX="$prefix"; }
# A VM of ours (or, with a second argument, a foreign one) that "runs": a process in its directory.
# The shell does nothing but wait for a line that never comes.
fake_vm() {
	mkdir -p "$dest/var/lib/microvms/$1"
	[ -n "${2:-}" ] || echo '{}' >"$dest/var/lib/microvms/$1/.blix.json"
	mkfifo "$dest/never"
	(cd "$dest/var/lib/microvms/$1" && exec bash -c 'exec 3<>"$0"; read -r -u 3 _' "$dest/never" 3>&-) >/dev/null 2>&1 3>&- &
	runner=$!
	until [ "$(readlink "/proc/$runner/cwd")" = "$dest/var/lib/microvms/$1" ]; do :; done
}

@test "install places every file, readable by all and with the prefix filled in" {
	prefix=/opt/blix
	run install_here
	[ "$status" -eq 0 ]
	cd "$dest/opt/blix"
	for file in libexec/blix/{toy.elf,uninstall,manifest} lib/systemd/system/blixd.service \
		lib/sysusers.d/blix.conf lib/tmpfiles.d/blix.conf share/blix/blixd-shim.conf; do
		[ -r "$file" ]
	done
	for program in "$BLIX_BUILD"/bin/*; do
		[ -e "$program" ] || continue
		name=${program##*/}
		[ -x "bin/$name" ] || [ -x "libexec/blix/$name" ]
	done
	for helper in "$BLIX_BUILD"/libexec/*; do
		[ -e "libexec/blix/${helper##*/}" ]
	done
	grep -q '^ExecStart=/opt/blix/bin/blixd$' lib/systemd/system/blixd.service
	run grep -r '@PREFIX@' lib share
	[ "$status" -eq 1 ]
	[ -z "$(find . -perm /022 ! -type l)" ]
	# The list knows every file that is there.
	diff <(find . ! -type d | sed 's|^\.|/opt/blix|' | sort) \
		<(grep '^/' libexec/blix/manifest | cat - <(echo /opt/blix/libexec/blix/manifest) | sort)
}

@test "completions and manual pages are installed" {
	[ -x "$BLIX_BUILD/bin/blix" ] || return 0
	install_here
	[ -s "$dest/usr/local/share/bash-completion/completions/blix" ]
	[ -s "$dest/usr/local/share/zsh/site-functions/_blix" ]
	[ -s "$dest/usr/local/share/fish/vendor_completions.d/blix.fish" ]
	for page in docs/man/*.scd; do
		[ -e "$page" ] || continue
		page=$(basename "$page" .scd)
		[ -s "$dest/usr/local/share/man/man${page##*.}/$page" ]
	done
}

@test "uninstall --purge leaves nothing" {
	install_here
	mkdir -p "$dest/var/lib/blix/vms/web" "$dest/run/blix" "$dest/etc/blix" "$dest/nix/var/nix/gcroots/"{auto,microvm} \
		"$dest/var/lib/microvms/web"
	echo '{}' >"$dest/var/lib/microvms/web/.blix.json"
	ln -s /nowhere "$dest/var/lib/microvms/web/current"
	ln -s "$dest/var/lib/microvms/web/current" "$dest/nix/var/nix/gcroots/microvm/web"
	ln -s "$dest/var/lib/microvms/web/current" "$dest/nix/var/nix/gcroots/auto/abc"
	run "$dest/usr/local/libexec/blix/uninstall" --purge
	[ "$status" -eq 0 ]
	[ -z "$(find "$dest" ! -type d)" ]
	[ ! -e "$dest/usr" ]
	[ ! -e "$dest/var/lib/blix" ]
	[ ! -e "$dest/var/lib/microvms" ]
}

@test "uninstall without --purge keeps the state, and what others put beside ours" {
	install_here
	mkdir -p "$dest/var/lib/blix"
	echo other >"$dest/usr/local/lib/other"
	DESTDIR=$dest run scripts/uninstall
	[ "$status" -eq 0 ]
	[ -d "$dest/var/lib/blix" ]
	[ "$(find "$dest/usr" ! -type d)" = "$dest/usr/local/lib/other" ]
}

@test "uninstall names running VMs and refuses without a flag" {
	install_here
	fake_vm web
	run "$dest/usr/local/libexec/blix/uninstall" --purge
	[ "$status" -eq 1 ]
	[[ $output == *"running: web"* ]]
	[[ $output == *"--keep-vms or --stop-vms"* ]]
	[ -e "$dest/usr/local/libexec/blix/manifest" ]
	kill -0 "$runner"
}

@test "uninstall --keep-vms leaves the VM running" {
	install_here
	fake_vm web
	run "$dest/usr/local/libexec/blix/uninstall" --keep-vms
	[ "$status" -eq 0 ]
	kill -0 "$runner"
	[ -e "$dest/var/lib/microvms/web/.blix.json" ]
	[ ! -e "$dest/usr/local/libexec" ]
}

@test "uninstall --stop-vms --purge ends the VM and removes it" {
	install_here
	fake_vm web
	run "$dest/usr/local/libexec/blix/uninstall" --stop-vms --purge
	[ "$status" -eq 0 ]
	run kill -0 "$runner"
	[ "$status" -ne 0 ]
	[ ! -e "$dest/var/lib/microvms" ]
}

@test "uninstall never touches a foreign microVM" {
	install_here
	fake_vm theirs foreign
	run "$dest/usr/local/libexec/blix/uninstall" --stop-vms --purge
	[ "$status" -eq 0 ]
	kill -0 "$runner"
	[ -d "$dest/var/lib/microvms/theirs" ]
}

@test "uninstall refuses --keep-vms with --purge, and unknown flags" {
	install_here
	run "$dest/usr/local/libexec/blix/uninstall" --keep-vms --purge
	[ "$status" -eq 1 ]
	run "$dest/usr/local/libexec/blix/uninstall" --frobnicate
	[ "$status" -eq 64 ]
	[ -e "$dest/usr/local/libexec/blix/manifest" ]
}

@test "installing again removes what an older version placed" {
	install_here
	echo old >"$dest/usr/local/libexec/blix/old"
	echo /usr/local/libexec/blix/old >>"$dest/usr/local/libexec/blix/manifest"
	install_here
	[ ! -e "$dest/usr/local/libexec/blix/old" ]
	run "$dest/usr/local/libexec/blix/uninstall" --purge
	[ "$status" -eq 0 ]
	[ ! -e "$dest/usr" ]
}

@test "blixd.service is a unit that systemd understands" {
	command -v systemd-analyze >/dev/null || skip "systemd: not installed"
	install_here
	# The only thing that may be missing in a DESTDIR is the program itself.
	sed "s|^ExecStart=.*|ExecStart=/bin/true|" "$dest/usr/local/lib/systemd/system/blixd.service" >"$dest/blixd.service"
	mkdir "$dest/blixd.service.d"
	cp "$dest/usr/local/share/blix/blixd-shim.conf" "$dest/blixd.service.d/"
	run systemd-analyze verify --man=no "$dest/blixd.service"
	[ "$status" -eq 0 ]
	[ -z "$output" ]
}

@test "a build against an older libraft stops at once and names the fix" {
	mkdir "$dest/bin"
	cat >"$dest/bin/pkg-config" <<-'END'
		#!/bin/sh
		case "$*" in
		*--atleast-version=*raft*) exit 1 ;;
		*--modversion*raft*) echo 0.15.0 ;;
		esac
	END
	chmod +x "$dest/bin/pkg-config"
	PATH=$dest/bin:$PATH run make "B=$dest/build" all
	[ "$status" -eq 2 ]
	[[ $output == *"libraft >= 0.22.1 is needed (found: 0.15.0)"* ]]
	[[ $output == *"scripts/install-deps"* ]]
	[ ! -e "$dest/build" ]
}

@test "install-deps names the packages on a system it does not know" {
	[ -r /etc/os-release ]
	run scripts/install-deps --frobnicate
	[ "$status" -eq 64 ]
	echo 'ID=plan9' >"$dest/os-release"
	BLIX_OS_RELEASE=$dest/os-release run scripts/install-deps
	[ "$status" -eq 78 ]
	[[ $output == *"libraft-dev >= 0.22.1"* ]]
	[[ $output == *"libmicrohttpd-dev"* ]]
}
