/* Every bound on what an outsider can make blix allocate, queue or loop over, with its reason. */
#ifndef BLIX_BASE_LIMITS_H
#define BLIX_BASE_LIMITS_H

#define LIMIT_NAME        63   /* a DNS label; upstream makes it a directory and a unit name */
#define LIMIT_FLAKE       1024 /* a locked URL with revision and narHash is under 300 */
#define LIMIT_SOURCE_LIST (32u << 20) /* what git tracks in it: half a million paths */
#define LIMIT_SOURCE                                                                               \
	(256u << 20)          /* one packed flake of a client: the kernel's whole tree is 1.4 GiB */
#define LIMIT_ATTR        63  /* an attribute of nixosConfigurations: the name rule of NixOS */
#define LIMIT_READY       256 /* console:TEXT; the text is searched in each console line */
#define LIMIT_LABELS      32  /* per object; selectors loop over them */
#define LIMIT_LABEL_VALUE 63
#define LIMIT_SECRETS     32          /* of one VM: each is a file that is read at its start */
#define LIMIT_SECRET      (64u << 10) /* a certificate chain with its key is under 16 KiB */
#define LIMIT_SECRET_NAME 63
#define LIMIT_CPUS        1024         /* above any host known */
#define LIMIT_MEMORY      (1ULL << 44) /* 16 TiB */
#define LIMIT_MESSAGE     1536         /* the last lines of a build log or console in a report */
#define LIMIT_LOCK        (256u << 10) /* one flake.lock; nixpkgs with 40 inputs is about 40 KiB */
#define LIMIT_GENERATIONS 64           /* kept of one VM, whatever the configuration says */
#define LIMIT_VOLUMES     32           /* volumes, shares and devices a VM may have, each */
#define LIMIT_VMS         100000u /* one sorted array and one snapshot message must hold them */
#define LIMIT_METRICS_VMS                                                                          \
	1000u /* per node in GET /metrics: each is six series for whoever stores them */
#define LIMIT_NODES     1000u
#define LIMIT_SERVERS   16u   /* members of the log: 7 voters, and standbys for each of them */
#define LIMIT_VOTERS    7u    /* beyond, a commit waits for more disks and protects no better */
#define LIMIT_PRINCIPAL 71    /* "user:" and a name; "node:" and a number */
#define LIMIT_ADDRESSES 512u  /* text of a node's addresses: four HOST:PORT of 127 bytes */
#define LIMIT_TOKENS    1000u /* join tokens at once: one for each node there may be */
#define LIMIT_JOIN_TRIES                                                                           \
	5u /* failures to join a minute from one address: nobody mistypes more often */
#define LIMIT_JOIN_PEERS 256u /* addresses whose failures are counted: the oldest is forgotten */
#define LIMIT_TOKEN_TTL  604800000u /* ms a join token may live: a week */
#define LIMIT_USERS      10000u     /* people and pipelines with a certificate */
#define LIMIT_DENIED                                                                               \
	16384u /* serials, and ids of nodes, that are denied: each looked up at a handshake */
#define LIMIT_LEFT         65536u       /* ids of nodes that left: half a MiB */
#define LIMIT_AUDIT        4096u        /* the audit ring in the state: under 1 MiB */
#define LIMIT_EVENTS       4096u        /* the ring in the state: about 1 MiB */
#define LIMIT_CHANGES      4096u        /* remembered for watches that keep up: 64 KiB */
#define LIMIT_WATCHES      256u         /* of one connection: each is looked at after a change */
#define LIMIT_WATCHES_ALL  16384u       /* of one daemon: about 2 MiB */
#define LIMIT_SESSIONS     100000u      /* about 100 bytes each while they hold few results */
#define LIMIT_RESULTS      64u          /* remembered results of a session */
#define LIMIT_SESSION_IDLE 3600000u     /* ms without a request before a session may expire */
#define LIMIT_KEY          200u         /* an idempotency key: a UUID or a build's URL fits */
#define LIMIT_COMMAND      (512u << 10) /* one command: a lock plus a spec */
#define LIMIT_BATCH        (1u << 20)   /* bytes of commands in one log entry */
#define LIMIT_PROPOSALS    4096u        /* proposals waiting in one daemon: beyond is `busy` */
#define LIMIT_PROPOSALS_OF 512u         /* of them by one principal: the others get their turn */
#define LIMIT_PROPOSED     (16u << 20)  /* bytes of them that the log has not taken yet */
#define LIMIT_SNAPSHOT     (512u << 20) /* travels as one message held in memory */
#define LIMIT_PEERS        1024u /* servers that one daemon has heard of: they are looped over */
#define LIMIT_RECONFIGS    64u   /* changes of members that wait: each takes a round of the log */
#define LIMIT_LOG_TAIL     (8u << 20)   /* bytes of commands behind a snapshot before the next */
#define LIMIT_LOG_TRAIL    (4u << 20)   /* of them kept behind it for servers that lag */
#define LIMIT_LOG_ROOM     (8u << 20)   /* free on the disk, or nothing is written: one segment */
#define LIMIT_LOG_RESERVE  (16u << 20)  /* given back then: a segment, a term, what is under way */
#define LIMIT_BODY         (1u << 20)   /* an HTTP request body */
#define LIMIT_ANSWER       (256u << 20) /* an HTTP answer as a client reads it: 100,000 full VMs */
#define LIMIT_CONNECTIONS  1000         /* HTTP connections at once, on each socket */
#define LIMIT_WAIT         300000u      /* ms, the longest ?wait= */
#define LIMIT_HTTP_USER    64           /* of them by one peer, if it has no need of more */
#define LIMIT_HTTP_BODIES  (64u << 20)  /* bytes of request bodies held at once */
#define LIMIT_HTTP_FILES   8            /* request bodies that go to files at once */
#define LIMIT_HTTP_HEADERS 64           /* headers of a request */
#define LIMIT_HTTP_RECEIVE 10000u       /* ms from a request line to the end of its body */
#define LIMIT_HTTP_IDLE    60000u       /* ms without a request, or without progress of an answer */
#define LIMIT_HTTP_PIECE   (256u << 10) /* bytes of one piece of a streamed answer */
#define LIMIT_WIRE_QUEUE   (1u << 20)   /* bytes that wait for the reader of a stream: 4 windows */
#define LIMIT_WIRE_LINGER  10000u       /* ms for the last bytes of a stream that has ended */
#define LIMIT_STREAMS      256          /* of one daemon at once: each may hold two such queues */
#define LIMIT_STREAM_BODY  (64u << 10)  /* what a stream is asked for */
#define LIMIT_FETCHES      4096u        /* requests of one daemon under way to others */
#define LIMIT_JSON_DEPTH   32
#define LIMIT_JSON_NODES   10000u       /* of a request; answers may be larger */
#define LIMIT_JSON_KEYS    256u         /* of one object: duplicates are searched by pairs */
#define LIMIT_CHILD_OUTPUT (1u << 20)   /* of each stream of a child; more is cut, the tail kept */
#define LIMIT_STATUS       (4u << 20)   /* the JSON of microvm-status */
#define LIMIT_CONSOLE      (8u << 20)   /* bytes of console log kept per VM, in two halves */
#define LIMIT_FILE         (1u << 20)   /* a configuration, lock or state file read whole */
#define LIMIT_JOURNAL      (128u << 20) /* every VM in the middle of an action of eight steps */
#define LIMIT_PEM          (16u << 10)  /* a certificate, request or key; of P-256 under 2 KiB */
#define LIMIT_QMP          (1u << 20)   /* an answer of a hypervisor; QEMU's are under 200 KiB */

/* Frames between client, daemon and guest. */
#define LIMIT_FRAME            (64u << 10) /* payload of one frame: others get their turn after it */
#define LIMIT_FRAME_WINDOW     (256u << 10) /* bytes under way per stream and direction */
#define LIMIT_FRAME_INPUT      (1u << 20)   /* bytes of frames read and not yet looked at */
#define LIMIT_GUEST_STREAMS    64u          /* to one guest; its agent refuses more */
#define LIMIT_TREE_PATH        4096u        /* a path or link in a copy, as the kernel has it */
#define LIMIT_TREE_DIRECTORIES 100000u      /* made by one copy: their modes wait for its end */

/* Joining, and sessions of TLS. */
#define LIMIT_TOKEN           4096u /* a join token's line: eight addresses of 264 bytes */
#define LIMIT_TOKEN_ADDRESSES 8u    /* in a join token; any one of them is enough */
#define LIMIT_TLS_HANDSHAKE   5000u /* ms, with the connect before it */

#endif
