/* Objects as bytes, for commands and snapshots alike. The get_ functions fill structs whose strings
 * are already set (init'ed) and replace them; a failure shows in the reader. */
#ifndef BLIX_CORE_OBJECT_CODEC_H
#define BLIX_CORE_OBJECT_CODEC_H

#include "core/codec.h"
#include "core/node.h"
#include "core/vm.h"

void put_spec(struct buf *out, const struct vm_spec *spec);
void get_spec(struct codec *in, struct vm_spec *spec);
void put_resolved(struct buf *out, const struct vm_resolved *resolved);
void get_resolved(struct codec *in, struct vm_resolved *resolved);
void put_vm(struct buf *out, const struct vm *vm);
/* A fresh VM, also on failure. */
struct vm *get_vm(struct codec *in);
void put_facts(struct buf *out, const struct node_facts *facts);
void get_facts(struct codec *in, struct node_facts *facts);
void put_node(struct buf *out, const struct node *node);
struct node *get_node(struct codec *in);

#endif
