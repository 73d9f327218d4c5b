# A NixOS guest for blix: nothing here is special to blix.
#
#   blix vm create web --flake .#web --cpus 2 --memory 1GiB
#
# Needs Nix >= 2.18. What the cluster decides (cpus, memory, networks) overrides the values below.
{
  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    microvm.url = "github:microvm-nix/microvm.nix";
    microvm.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs = { self, nixpkgs, microvm }: {
    nixosConfigurations.web = nixpkgs.lib.nixosSystem {
      system = "x86_64-linux";
      modules = [
        microvm.nixosModules.microvm
        ({ pkgs, ... }: {
          networking.hostName = "web";
          system.stateVersion = "25.11";

          microvm = {
            hypervisor = "qemu";
            vcpu = 1;
            mem = 512;
            # A disk of the VM's own: it pins the VM to its node.
            volumes = [{
              image = "var.img";
              mountPoint = "/var";
              size = 1024;
            }];
          };

          services.nginx = {
            enable = true;
            virtualHosts.default.root = pkgs.writeTextDir "index.html" "served from a microVM\n";
          };
          networking.firewall.allowedTCPPorts = [ 80 ];

          # Someone to log in on the console. Replace this by a key.
          services.getty.autologinUser = "root";
        })
      ];
    };
  };
}
