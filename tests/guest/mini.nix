{
  outputs = { self }:
    let
      build = name: script: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
        args = [ "-euc" script ];
      };
      toplevel = build "mini-system" "mkdir $out";
      system = script: { config = { system.build = { inherit toplevel; }; microvm.declaredRunner = build "microvm-mini" script; }; };
      says = word: ''
        mkdir -p $out/bin $out/share/microvm
        printf '#!/bin/sh\necho %s\n' ${word} > $out/bin/microvm-run
        chmod +x $out/bin/microvm-run
        ln -s ${toplevel} $out/share/microvm/system
      '';
    in
    {
      nixosConfigurations = {
        mini = system (says "one");
        fails = system "echo it cannot be built; exit 1";
      };
    };
}
