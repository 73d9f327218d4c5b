# Nix for tests: its own store and state under the test's directory, offline, no daemon.
nix_isolated() { # DIR
	export HOME=$1/home NIX_STORE_DIR=$1/nix/store NIX_STATE_DIR=$1/nix/var NIX_LOG_DIR=$1/nix/log NIX_CONF_DIR=$1/nix/etc
	export NIX_REMOTE='' NIX_USER_CONF_FILES=/dev/null
	unset XDG_CACHE_HOME XDG_CONFIG_HOME
	export NIX_CONFIG='experimental-features = nix-command flakes
build-users-group =
sandbox = false
substituters ='
	mkdir -p "$HOME" "$NIX_STATE_DIR"
}

# The store refuses to be deleted by a plain rm.
nix_forget() { # DIR
	[ ! -d "$1/nix" ] || chmod -R u+w "$1/nix"
	rm -rf "$1"
}

# Locks a local flake and prints the URL that names it by content.
base_url() { # DIR
	nix flake metadata --json "path:$1" |
		jq -r '"path:\(.path)?narHash=\(.locked.narHash | gsub("\\+"; "%2B") | gsub("/"; "%2F") | gsub("="; "%3D"))"'
}

# What blix renders for each VM, but for the agent of NixOS.
wrapper() { # DIR URL NAME ATTR OPTIONS-JSON
	mkdir -p "$1"
	cat >"$1/flake.nix" <<-NIX
		# Written by blix. What the cluster decided is data in spec.json, never code here.
		{
		  inputs.base.url = "$2";
		  outputs = { self, base }:
		    let
		      spec = builtins.fromJSON (builtins.readFile ./spec.json);
		      system = base.nixosConfigurations.\${spec.attr};
		      force = content: { _type = "override"; priority = 50; inherit content; };
		      decided = { microvm = builtins.mapAttrs (_: force) spec.microvm; };
		    in {
		      nixosConfigurations.\${spec.name} =
		        if spec.plain then system else system.extendModules { modules = [ decided ]; };
		    };
		}
	NIX
	printf '{"name":"%s","attr":"%s","plain":false,"microvm":%s}' "$3" "$4" "$5" >"$1/spec.json"
}
