#!/usr/bin/env bats
# The Nix files parse, and the NixOS module renders the configuration that blixd reads. Evaluated
# without a store and without nixpkgs.

setup() {
	cd "$BATS_TEST_DIRNAME/../.." || return 1
	home=$(mktemp -d)
	export HOME=$home NIX_REMOTE=dummy:// XDG_CACHE_HOME=$home XDG_CONFIG_HOME=$home
}

teardown() {
	rm -rf "$home"
}

# render ATTR SETTINGS: prints the attribute as JSON
render() { nix-instantiate --eval --strict --json tests/cli/nix/module.nix -A "$1" --arg settings "$2" 2>"$home/err"; }

@test "flake.nix and all of nix/ parse" {
	for file in flake.nix nix/*.nix; do
		nix-instantiate --parse "$file" >/dev/null
	done
}

@test "what is not set is absent from blix.json" {
	[ "$(render json '{ }')" = '"{}"' ]
}

@test "settings arrive in blix.json under blixd's own keys" {
	settings='{ id = 1; cluster = "test"; overcommit.cpu = 4; nix.extraConfig = "cores = 2";
		servers = [ { id = 1; name = "n1"; raft = "/r"; api = "/a"; } ]; }'
	render json "$settings" | jq -e 'fromjson == {
		id: 1, cluster: "test", overcommit: {cpu: 4}, nix: {extraConfig: "cores = 2"},
		servers: [{id: 1, name: "n1", raft: "/r", api: "/a"}]}'
	[ "$(render failed "$settings")" = '[]' ]
}

@test "an id that is none of the servers is refused" {
	settings='{ id = 2; servers = [ { id = 1; name = "n1"; raft = "/r"; api = "/a"; } ]; }'
	[[ $(render failed "$settings") == *"settings.id must be"* ]]
}

@test "an unknown setting is refused by name" {
	run render json '{ bogus = 1; }'
	[ "$status" -ne 0 ]
	grep -q 'services.blix.settings.bogus' "$home/err"
}
